"""CPU time of each step of the client tier, one after the other in this process.

ciphertext ─decrypt─▶ bundle ─read─▶ series ─plan▸─restore▸─islands▸─measure▸─SEG─▶ ─encrypt▸─store▶

The network is not among them: its masks are given.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from client.crypto.digest import Digest
from client.crypto.envelope import DataKey
from client.dicom.measure import measure
from client.dicom.provenance import Provenance
from client.dicom.seg import place_segmentation
from client.dicom.series import Series
from client.dicom.tally import take_tally
from client.errors import ConfigurationError
from client.ingest.bundle import result_bundle, study_bundle
from client.limits import BundleLimits, ReadLimits
from client.objectstore.stores import open_store
from client.version import SOFTWARE_VERSION
from client.worker.blocks import Block, BlockPool
from client.worker.reading import read_bundle_study
from loadtest.report import Tier, spans
from preprocess.cleanup import folded_mask
from preprocess.spec import ModelSpec

__all__ = ("COUNTED", "ClientTier")

T = TypeVar("T")

COUNTED = ("decrypt", "read", "plan", "restore", "SEG", "encrypt", "store")
"""The steps whose sum the aim is about; ``islands`` and ``measure`` are told beside them."""

BINDING = b"benchmark"
KEPT_BYTES = 4 << 30


@dataclass(frozen=True, eq=False)
class ClientTier:
    """One study, sealed, with the network's masks of its slices.

    Attributes:
        spec: The model.
        ciphertext: The study's bundle.
        key: Its key.
        digest: Of the bundle.
        masks: uint8 [slices, canvas rows, canvas columns].
        folder: Where the result is stored.
    """

    spec: ModelSpec
    ciphertext: bytes
    key: DataKey
    digest: Digest
    masks: NDArray[np.uint8]
    folder: Path

    @classmethod
    def of(
        cls, files: Sequence[Path], masks: NDArray[np.uint8], spec: ModelSpec, folder: Path
    ) -> ClientTier:
        """Seals a study.

        Args:
            files: Its DICOM files, one series.
            masks: Of its slices on the network's canvas.
            spec: The model.
            folder: Where results are stored; the caller removes it.
        """
        bundle = study_bundle(files)
        key, digest = DataKey.new(), bundle.digest()
        ciphertext = b"".join(key.seal(bundle.chunks(), BINDING, digest))
        return cls(spec, ciphertext, key, digest, masks, folder)

    def run(self) -> Tier:
        """Takes every step twice, and measures the second time.

        As in the worker: decrypted bytes, pixels and the DICOM SEG go into blocks of shared memory
        that another study had before, wiped in between; uncompressed pixels stay where they were
        decrypted, and the DICOM SEG goes over them. The wiping counts as storing, which it follows.

        Raises:
            ConfigurationError: The files are not one series of as many slices as there are masks.
        """
        blocks = BlockPool(KEPT_BYTES)
        try:
            self._pass(blocks, _Clock())
            clock = _Clock()
            self._pass(blocks, clock)
        finally:
            blocks.close()
        return Tier(len(self.masks), spans(clock.seconds))

    def _pass(self, blocks: BlockPool, clock: _Clock) -> None:
        length = self.digest.length
        with ExitStack() as lent:
            block, room = (lent.enter_context(blocks.block(length)) for _ in range(2))
            bundle = clock.time("decrypt", lambda: self._open(block))
            series = clock.time("read", lambda: self._read(bundle, room))
            segmentation = self._segmentation(series, clock)
            key = DataKey.new()
            sealed = clock.time("encrypt", lambda: list(_seal(key, segmentation)))
            clock.time("store", lambda: asyncio.run(self._store(sealed)))
            clock.time("store", lent.close)

    def _segmentation(self, series: Series, clock: _Clock) -> memoryview:
        spec = self.spec
        plan = clock.time("plan", lambda: series.plan(spec))
        grid = series.spacing_mm
        plain = replace(spec, cleanup=None)
        clock.time("restore", lambda: folded_mask(plan, self.masks, grid, plain))
        mask = clock.time("islands", lambda: folded_mask(plan, self.masks, grid, spec))
        # Bringing the masks home is part of it, and counted already.
        clock.seconds["islands"] = max(0.0, clock.seconds["islands"] - clock.seconds["restore"])
        provenance = Provenance(
            job_id="benchmark",
            software_version=SOFTWARE_VERSION,
            engine="OpenVINO",
            model_sha256="0" * 64,
            created_at=datetime.now(UTC),
        )
        # Taken once for both, as the worker does; here the SEG pays for it.
        classes = len(spec.segments) + 1
        tally = clock.time("SEG", lambda: take_tally(series.stored, mask, classes))
        clock.time("measure", lambda: measure(series, mask, spec, tally))
        room = series.stored.reshape(-1).view(np.uint8)
        return clock.time(
            "SEG", lambda: place_segmentation(series, mask, spec, provenance, tally, room=room)
        ).data

    def _open(self, block: Block) -> NDArray[np.uint8]:
        block.used = self.digest.length
        bundle = block.bytes[: block.used]
        self.key.open(io.BytesIO(self.ciphertext), BINDING, self.digest, lambda _: bundle.data)
        return bundle

    def _read(self, bundle: NDArray[np.uint8], room: Block) -> Series:
        content, room.used = read_bundle_study(
            bundle, room.bytes, BundleLimits(), ReadLimits(), self.spec.route.modalities
        )
        if [len(one.stored) for one in content.series] != [len(self.masks)]:
            raise ConfigurationError(
                f"Expected one series of {len(self.masks)} slices, got "
                f"{[len(one.stored) for one in content.series]}; {len(content.refusals)} refused."
            )
        return content.series[0]

    async def _store(self, sealed: Sequence[bytes]) -> None:
        store = open_store(self.folder.absolute().as_uri())
        await store.put("result", _each(sealed))
        await store.delete("result")


def _seal(key: DataKey, segmentation: memoryview) -> Iterator[bytes]:
    """Two passes over the result, as the worker makes them: hash, then seal."""
    bundle = result_bundle({"segmentation-001.dcm": segmentation})
    return key.seal(bundle.chunks(), BINDING, bundle.digest())


async def _each(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


class _Clock:
    """CPU seconds of this process, all its threads, by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, step: str, function: Callable[[], T]) -> T:
        began = time.process_time()
        result = function()
        self.seconds[step] = self.seconds.get(step, 0.0) + time.process_time() - began
        return result
