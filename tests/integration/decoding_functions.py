"""What the decoding tests run in isolated children: series on several cores, with faults."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from client.dicom import decoding
from client.dicom.decoding import decode_all
from client.dicom.parsing import Inflation, Instance, parse_instance
from client.dicom.pixels import PixelLayout, check_pixels, decode_pixels
from client.dicom.plain import Conversions
from client.dicom.quiet import quiet
from client.errors import Rejected
from client.limits import ReadLimits

__all__ = (
    "decoded",
    "decoded_alone",
    "decoded_with_fault",
    "decoded_with_few_processes",
    "frames_decoded_ahead",
    "helpers",
    "outcome",
    "rooms_of_helpers",
)

_LIMITS = ReadLimits()
Outcome = tuple[list[Any], str]
"""What was decoded, and the refusal that ended it."""


def _checked(files: Sequence[bytes]) -> tuple[list[Instance], list[PixelLayout]]:
    inflation, conversions = Inflation(_LIMITS), Conversions()
    instances = [parse_instance(data, _LIMITS, inflation, conversions) for data in files]
    return instances, [check_pixels(instance, _LIMITS) for instance in instances]


def _count_helpers() -> list[int]:
    """Let the smallest series be worth helpers, and note how many each time has."""
    decoding._WORTH_A_FORK_BYTES = 1
    counts: list[int] = []
    start = decoding._Ahead.__init__

    def noting(self: Any, tasks: Any, frame_bytes: int, count: int, *more: Any) -> None:
        counts.append(count)
        start(self, tasks, frame_bytes, count, *more)

    setattr(decoding._Ahead, "__init__", noting)  # noqa: B010, for mypy
    return counts


def outcome(files: Sequence[bytes], processes: int) -> Outcome:
    """Pixels of each instance before the first refusal, and that."""
    decoding._WORTH_A_FORK_BYTES = 1
    pixels: list[Any] = []
    with quiet():
        instances, layouts = _checked(files)
        try:
            # Copied, since the next one may lie in the same memory.
            pixels.extend(map(np.array, decode_all(instances, layouts, processes)))
        except Rejected as refusal:
            return pixels, f"{refusal.code}: {refusal.reason}"
    return pixels, ""


def decoded_alone(files: Sequence[bytes]) -> Outcome:
    """The slow, plain way: one instance after the other, without this module."""
    pixels: list[Any] = []
    with quiet():
        instances, layouts = _checked(files)
        try:
            pixels.extend(map(decode_pixels, instances, layouts))
        except Rejected as refusal:
            return pixels, f"{refusal.code}: {refusal.reason}"
    return pixels, ""


def decoded(files: Sequence[bytes], processes: int) -> tuple[Outcome, list[int]]:
    """An outcome, and how many helpers there were."""
    counts = _count_helpers()
    return outcome(files, processes), counts


def helpers(files: Sequence[bytes], processes: int) -> list[int]:
    """How many helpers there were, without any change to what is worth one."""
    worth = decoding._WORTH_A_FORK_BYTES
    counts = _count_helpers()
    decoding._WORTH_A_FORK_BYTES = worth
    instances, layouts = _checked(files)
    for _ in decode_all(instances, layouts, processes):
        pass
    return counts


def frames_decoded_ahead(files: Sequence[bytes], notes: str, processes: int) -> list[int]:
    """How many frames were decoded when the first, second … one had been taken for a while."""
    decoding._WORTH_A_FORK_BYTES = 1
    decode = decoding._Task.decode

    def noting(task: Any) -> decoding.Pixels:
        with Path(notes).open("ab") as file:
            file.write(b".")
        return decode(task)

    setattr(decoding._Task, "decode", noting)  # noqa: B010, for mypy
    instances, layouts = _checked(files)
    counts = []
    for _ in decode_all(instances, layouts, processes):
        time.sleep(0.3)
        counts.append(Path(notes).stat().st_size)
    return counts


def rooms_of_helpers(files: Sequence[bytes], notes: str, processes: int) -> tuple[int, list[int]]:
    """Address space that all helpers may take together, and that each may take."""
    decoding._WORTH_A_FORK_BYTES = 1
    be_helper = decoding._be_helper

    def noting(*call: Any) -> None:
        before = decoding._address_space()
        be_helper(*call)
        with Path(notes).open("a", encoding="ascii") as file:
            file.write(f"{resource.getrlimit(resource.RLIMIT_AS)[0] - before}\n")

    setattr(decoding, "_be_helper", noting)  # noqa: B010, for mypy
    Path(notes).write_text("", encoding="ascii")
    instances, layouts = _checked(files)
    room = decoding._room()
    for _ in decode_all(instances, layouts, processes):
        pass
    return room or 0, [int(line) for line in Path(notes).read_text("ascii").split()]


def decoded_with_few_processes(files: Sequence[bytes], allowed: int) -> Outcome:
    """An outcome where no more processes can be started than these."""
    left = [allowed]
    fork = os.fork

    def reluctant() -> int:
        if not left[0]:
            raise BlockingIOError
        left[0] -= 1
        return fork()

    setattr(os, "fork", reluctant)  # noqa: B010, for mypy
    return outcome(files, 3)


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _eat() -> None:
    np.ones(1 << 40, np.uint8)


def _hang() -> None:
    time.sleep(600)


_FAULTY = (".4", ".5", ".6")
_FAULTS: dict[str, Callable[[], None]] = {"crash": _crash, "eat": _eat, "hang": _hang}


def decoded_with_fault(
    files: Sequence[bytes], fault: str, everywhere: bool, notes: str
) -> tuple[Outcome, list[int]]:
    """An outcome where decoding three instances in a row crashes, hangs or eats memory.

    Args:
        files: The instances.
        fault: What happens.
        everywhere: Whether it does in the reader as well, as with a decoder that crashes.
        notes: File that takes the process IDs of helpers.
    """
    counts = _count_helpers()
    reader = os.getpid()

    def faulty(instance: Instance, layout: PixelLayout) -> decoding.Pixels:
        helper = os.getpid() != reader
        if helper:
            with Path(notes).open("a", encoding="ascii") as file:
                file.write(f"{os.getpid()}\n")
        if instance.sop_instance_uid[-2:] in _FAULTY and (helper or everywhere):
            _FAULTS[fault]()
        pixels: decoding.Pixels = decode_pixels(instance, layout)
        return pixels

    setattr(decoding, "decode_pixels", faulty)  # noqa: B010, for mypy
    return outcome(files, 3), counts
