"""Blocks go round, hold zeros when they are lent, and the pool holds no more than it may."""

from __future__ import annotations

import os

import numpy as np
import pytest

from client.worker.blocks import BlockPool

pytestmark = pytest.mark.unit

MIB = 1 << 20


def test_a_block_is_used_again() -> None:
    pool = BlockPool(keep_bytes=64 * MIB)
    with pool.block(MIB) as first:
        first.used = MIB
    with pool.block(2 * MIB) as again, pool.block(MIB) as other:
        assert again is first
        assert other is not first
        again.used = other.used = 0


def test_what_is_kept_is_bounded() -> None:
    pool = BlockPool(keep_bytes=3 * MIB)
    with pool.block(2 * MIB) as one, pool.block(2 * MIB) as two:
        one.bytes[: 2 * MIB] = two.bytes[: 2 * MIB] = 1
        one.used = two.used = 2 * MIB
    with pool.block(2 * MIB) as kept, pool.block(2 * MIB) as fresh:
        assert kept in {one, two}
        assert fresh not in {one, two}
        kept.used = fresh.used = 0


def test_a_block_that_nobody_accounted_for_holds_no_memory() -> None:
    pool = BlockPool(keep_bytes=64 * MIB)
    with pool.block(MIB) as block:
        block.bytes[:] = 1
    assert os.fstat(block.fd).st_blocks == 0
    assert not block.bytes.any()


def test_a_block_keeps_a_copy_and_knows_what_lies_in_it() -> None:
    pool = BlockPool(keep_bytes=64 * MIB)
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    with pool.block(MIB) as block, pool.block(MIB) as other:
        copy = block.keep(array)
        np.testing.assert_array_equal(copy, array)
        assert block.used == array.nbytes
        assert block.holds(copy[1:])
        assert block.holds(block.bytes[MIB - 2 : MIB].view(np.int16))
        assert not block.holds(array)
        assert not other.holds(copy)


def test_closing_gives_everything_back() -> None:
    pool = BlockPool(keep_bytes=64 * MIB)
    with pool.block(MIB) as block:
        block.used = MIB
    pool.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(block.fd)
