"""An isolated reader leaves uncompressed pixels in the memory that the bundle came in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from pydicom.uid import RLELossless

from client.dicom.series import StudyContent
from client.ingest.bundle import study_bundle
from client.limits import BundleLimits, ReadLimits
from client.worker.blocks import Block, BlockPool
from client.worker.isolation import Isolation
from client.worker.reading import read_bundle_study
from tests.dicom_factory import Recipe, classic_files

pytestmark = pytest.mark.integration

GIB = 1 << 30
VALUES = np.random.default_rng(1).integers(0, 9, (6, 256, 256)).astype(np.uint16) * 7000
RECIPE = Recipe(VALUES, order=[5, 0, 3, 1, 4, 2])


def held_bytes(block: Block) -> int:
    return 512 * os.fstat(block.fd).st_blocks


async def read(files: Sequence[tuple[str, bytes]], bundle: Block, room: Block) -> StudyContent:
    stream = b"".join(study_bundle([content for _, content in files]).chunks())
    plaintext = bundle.keep(np.frombuffer(stream, np.uint8))
    content, room.used = await Isolation(60.0, 8 * GIB).run(
        (bundle, room),
        read_bundle_study,
        plaintext,
        room.bytes,
        BundleLimits(),
        ReadLimits(),
        frozenset({"MR"}),
    )
    return content


async def test_uncompressed_series_take_no_second_block() -> None:
    pool = BlockPool(keep_bytes=GIB)
    files = [*classic_files(RECIPE), *classic_files(replace(RECIPE, series=2))]
    with pool.block(VALUES.nbytes * 3) as bundle, pool.block(VALUES.nbytes * 3) as room:
        content = await read(files, bundle, room)
        assert room.used == held_bytes(room) == 0
        assert held_bytes(bundle) < 2.1 * VALUES.nbytes
        for series in content.series:
            assert bundle.holds(series.stored)
            np.testing.assert_array_equal(series.stored, VALUES.astype(np.int32) - 32768)
        assert len(content.series) == 2
        del series, content
    assert not bundle.bytes.any()


async def test_compressed_series_lie_beside_others() -> None:
    pool = BlockPool(keep_bytes=GIB)
    files = [
        *classic_files(RECIPE),
        *classic_files(replace(RECIPE, series=2, syntax=RLELossless)),
    ]
    with pool.block(VALUES.nbytes * 3) as bundle, pool.block(VALUES.nbytes * 3) as room:
        content = await read(files, bundle, room)
        assert room.used == VALUES.nbytes
        plain, compressed = content.series
        assert bundle.holds(plain.stored)
        assert room.holds(compressed.stored)
        np.testing.assert_array_equal(plain.stored, compressed.stored)
