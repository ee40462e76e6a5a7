"""Decodes the compressed frames of a series on several cores, a few frames ahead of who takes them.

    reader ──number of a frame──▶ helpers (forks of the reader) ──pixels──▶ slots of shared memory
      ▲                                                                            │
      └────────────── instance by instance, in order ──────────────────────────────┘

Processes, since the decoders hold Python's global lock. A helper knows all files, as it is a copy
of the reader, and only ever says that a frame lies in its slot. At the first frame of which none
says so, all helpers end and the reader decodes from there on itself: what is refused, with which
reason, and what ends a reader is what it would be without helpers.
"""

from __future__ import annotations

import gc
import mmap
import os
import resource
import selectors
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from struct import Struct

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import UID, RLELossless

from client.dicom.parsing import Instance
from client.dicom.pixels import PixelLayout, alike_frames, decode_frame, decode_pixels
from client.process import die_with_parent

__all__ = ("decode_all",)

Pixels = NDArray[np.integer]

_TICKET = Struct("<I")
_ANSWER = Struct("<IcB2x")
"""Frame, and the kind and size of its pixels; a power of two, so that no reading ends inside."""
_ANSWERS_BYTES = 4096
_SLOTS_PER_HELPER = 2
_WORTH_A_FORK_BYTES = 2 << 20
"""Decoded pixels per helper: decoding them takes 12 ms (JPEG-LS) to 60 (JPEG 2000), a fork 10."""
_WORKING_MEMORY = 16
"""Times the size of a frame that a helper may take: decoders take up to 5, its slots 3."""
_FREE_MEMORY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class _Task:
    """One frame: of an instance of one frame nothing more, else its codestream."""

    instance: Instance
    layout: PixelLayout
    codestream: bytes | None

    def decode(self) -> Pixels:
        if self.codestream is None:
            pixels: Pixels = decode_pixels(self.instance, self.layout)
            return pixels
        return decode_frame(self.codestream, self.instance, self.layout)


def decode_all(
    instances: Sequence[Instance], layouts: Sequence[PixelLayout], processes: int = 1
) -> Iterator[Pixels]:
    """Decodes instances in their order; the same as ``decode_pixels`` of one after the other.

    Args:
        instances: Of one series, checked.
        layouts: Of each instance, what ``check_pixels`` found.
        processes: Cores to decode compressed frames on. The helpers share half of what is left of
            this process's address space, and are fewer where that, or the work, is little.

    Yields:
        Pixels [frames, rows, columns] of the next instance, which may be overwritten as soon as
        another one is asked for.

    Raises:
        Rejected: As for ``decode_pixels``, for the first instance that it refuses.
    """
    with _helpers(instances, layouts, processes) as ahead:
        for index, (instance, layout) in enumerate(zip(instances, layouts, strict=True)):
            pixels = ahead.take(index) if ahead else None
            yield decode_pixels(instance, layout) if pixels is None else pixels


@contextmanager
def _helpers(
    instances: Sequence[Instance], layouts: Sequence[PixelLayout], processes: int
) -> Iterator[_Ahead | None]:
    """Starts as many helpers as help, None if one process is as good."""
    if processes < 2 or not any(_is_slow(instance.transfer_syntax) for instance in instances):
        yield None
        return
    tasks = [_tasks(*one) for one in zip(instances, layouts, strict=True)]
    frames = [task for of_instance in tasks for task in of_instance]
    frame_bytes = max((_frame_bytes(task.layout) for task in frames), default=1)
    worth = len(frames) * frame_bytes // _WORTH_A_FORK_BYTES
    room = _room()
    count = min(processes, worth)
    if room is not None:
        count = min(count, room // (_WORKING_MEMORY * frame_bytes + _FREE_MEMORY_BYTES))
    if count < 2:
        yield None
        return
    with ExitStack() as owned:
        yield _Ahead(tasks, frame_bytes, count, None if room is None else room // count, owned)


@lru_cache(maxsize=64)
def _is_slow(transfer_syntax: str) -> bool:
    """Whether decoding takes much longer than handing pixels over."""
    syntax = UID(transfer_syntax)
    return syntax.is_encapsulated and syntax != RLELossless


def _tasks(instance: Instance, layout: PixelLayout) -> list[_Task]:
    """The frames of an instance that can be decoded each by itself, else none."""
    if not _is_slow(instance.transfer_syntax):
        return []
    if layout.frames == 1:
        return [_Task(instance, layout, None)]
    return [_Task(instance, layout, frame) for frame in alike_frames(instance, layout)]


def _frame_bytes(layout: PixelLayout) -> int:
    return layout.decoded_bytes // layout.frames


def _room() -> int | None:
    """Address space for all helpers together, None for any."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else max(0, limit - _address_space()) // 2


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * mmap.PAGESIZE


class _Ahead:
    """Helpers at work on the frames of a series.

    Args:
        tasks: The frames of each instance that helpers decode.
        frame_bytes: Of the largest one.
        count: How many helpers.
        room: Address space that each may take beside what it shares, None for any.
        owned: Ends them.
    """

    def __init__(
        self,
        tasks: Sequence[Sequence[_Task]],
        frame_bytes: int,
        count: int,
        room: int | None,
        owned: ExitStack,
    ) -> None:
        self._tasks = [task for of_instance in tasks for task in of_instance]
        self._ends = list(accumulate(map(len, tasks)))
        self._slots = [
            np.frombuffer(mmap.mmap(-1, frame_bytes), np.uint8)
            for _ in range(_SLOTS_PER_HELPER * count + 1)
        ]
        self._found: dict[int, np.dtype[np.integer]] = {}
        self._asked = 0
        self._owned = owned
        self._answers = owned.enter_context(selectors.DefaultSelector())
        theirs, self._tickets = os.pipe()  # both stay open, so that writing never fails
        owned.callback(os.close, self._tickets)
        owned.callback(os.close, theirs)
        with suppress(BlockingIOError):  # no more processes are allowed; these will do
            for _ in range(count):
                self._start(theirs, room)
        self._alive = bool(self._answers.get_map())
        self._ask(0)

    def take(self, index: int) -> Pixels | None:
        """Wait for an instance, in order; None where this process has to decode it."""
        start, end = self._ends[index - 1] if index else 0, self._ends[index]
        if not self._alive or start == end:
            return None
        if end - start == 1:
            self._ask(start)
            return self._wait_for(start)
        whole: Pixels | None = None
        for number in range(start, end):
            self._ask(number)
            frame = self._wait_for(number)
            if frame is None:
                return None
            if whole is None:
                whole = np.empty((end - start, *frame.shape[1:]), frame.dtype)
            if frame.dtype != whole.dtype:
                self._end()
                return None
            whole[number - start] = frame[0]
        return whole

    def _ask(self, taken: int) -> None:
        """Give out what there are slots for, now that frames before ``taken`` are done with."""
        until = min(len(self._tasks), taken + len(self._slots))
        tickets = b"".join(map(_TICKET.pack, range(self._asked, until)))
        if tickets:
            os.write(self._tickets, tickets)
            self._asked = until

    def _wait_for(self, number: int) -> Pixels | None:
        while number not in self._found:
            for key, _ in self._answers.select():
                answers = os.read(key.fd, _ANSWERS_BYTES)
                if not answers:  # it failed, or died
                    self._end()
                    return None
                for done, kind, size in _ANSWER.iter_unpack(answers):
                    self._found[done] = np.dtype(f"<{kind.decode()}{size}")
        layout = self._tasks[number].layout
        dtype, slot = self._found.pop(number), self._slots[number % len(self._slots)]
        pixels = slot[: layout.rows * layout.columns * dtype.itemsize].view(dtype)
        return pixels.reshape(1, layout.rows, layout.columns)

    def _end(self) -> None:
        self._alive = False
        self._owned.close()

    def _start(self, tickets: int, room: int | None) -> None:
        ours, answers = os.pipe()
        self._owned.callback(os.close, ours)
        parent = os.getpid()
        try:
            child = os.fork()
        except OSError:
            os.close(answers)
            raise
        if not child:
            with suppress(BaseException):  # whatever it is: who waits sees that it has ended
                os.close(self._tickets)
                _be_helper(parent, room)
                _help(self._tasks, self._slots, tickets, answers)
            os._exit(0)
        self._owned.callback(_kill, child)
        os.close(answers)
        self._answers.register(ours, selectors.EVENT_READ)


def _kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _be_helper(parent: int, room: int | None) -> None:
    """End with the parent, leave its memory alone, and take no more than ``room`` beside it."""
    die_with_parent()
    if os.getppid() != parent:
        raise SystemExit
    gc.freeze()  # else the first collection copies every page of the reader
    if room is not None:
        most = _address_space() + room
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _help(
    tasks: Sequence[_Task], slots: Sequence[NDArray[np.uint8]], tickets: int, answers: int
) -> None:
    """Decode what tickets name until there are none, or one fails."""
    while ticket := os.read(tickets, _TICKET.size):
        (number,) = _TICKET.unpack(ticket)
        pixels = tasks[number].decode()
        slot = slots[number % len(slots)]
        if pixels.dtype.kind not in "iu" or pixels.nbytes > len(slot):
            return
        slot[: pixels.nbytes].view(pixels.dtype.newbyteorder("<"))[:] = pixels.ravel()
        answer = _ANSWER.pack(number, pixels.dtype.kind.encode(), pixels.dtype.itemsize)
        os.write(answers, answer)
