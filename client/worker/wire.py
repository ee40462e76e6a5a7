"""Messages between a worker and its isolated children.

value ──pickle──▶ small parts; large arrays beside them: their place in a shared block, else they
                  themselves

What a child answers is not trusted: its bytes may be those of whatever took the child over. Its
pickle can make the types that answers consist of, and nothing else.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ("receive", "receive_answer", "send")

Memory = NDArray[np.uint8]

_LARGE_BYTES = 16 * 1024
_ANSWER_MODULES = (
    "client.dicom.measure",
    "client.dicom.report",
    "client.dicom.series",
    "client.errors",
    "client.worker.writing",
    "preprocess.geometry",
    "preprocess.spec",
)
"""Their classes are data, which does nothing when it is made."""
_ANSWER_TYPES = frozenset(
    {
        ("builtins", "str"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
        ("pydicom.dataelem", "DataElement"),
        ("pydicom.dataelem", "RawDataElement"),
        ("pydicom.dataset", "Dataset"),
        ("pydicom.multival", "MultiValue"),
        ("pydicom.tag", "BaseTag"),
        ("pydicom.uid", "UID"),
        ("pydicom.valuerep", "DSfloat"),
        ("pydicom.valuerep", "IS"),
        ("pydicom.valuerep", "ISfloat"),
        ("pydicom.valuerep", "PersonName"),
        ("pydicom.valuerep", "VR"),
    }
)
"""Arrays, and what the attributes of a header are made of."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a large array lies: in one of the blocks both sides have, or behind the message."""

    block: int | None
    start: int
    length: int


def send(connection: Connection, value: object, blocks: Sequence[Memory]) -> None:
    """Send a value.

    Args:
        connection: To the other side.
        value: Picklable.
        blocks: Memory that both sides have, in the same order; arrays in it are not copied.
    """
    places: list[_Place] = []
    behind: list[memoryview] = []

    def outside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _LARGE_BYTES:
            return True
        place = _find(raw, blocks)
        places.append(place)
        if place.block is None:
            behind.append(raw)
        return False

    message = pickle.dumps(value, protocol=5, buffer_callback=outside)
    table = [(place.block, place.start, place.length) for place in places]
    connection.send_bytes(pickle.dumps(table))
    connection.send_bytes(message)
    for raw in behind:
        connection.send_bytes(raw)


def receive(connection: Connection, blocks: Sequence[Memory]) -> Any:
    """Receive a value from the worker; arrays in blocks are views of them.

    Raises:
        EOFError: The other side has ended.
    """
    return _receive(connection, blocks, pickle.Unpickler, None)


def receive_answer(connection: Connection, blocks: Sequence[Memory], max_bytes: int) -> Any:
    """Receive a value from a child that is not trusted.

    Args:
        connection: To the child.
        blocks: As for ``send``.
        max_bytes: Most memory that arrays outside the blocks may take.

    Raises:
        EOFError: The child has ended.
        pickle.UnpicklingError: It is not an answer.
    """
    return _receive(connection, blocks, _Answers, max_bytes)


class _Answers(pickle.Unpickler):
    """Makes what answers consist of."""

    def find_class(self, module: str, name: str, /) -> Any:
        if module in _ANSWER_MODULES or (module, name) in _ANSWER_TYPES:
            found = super().find_class(module, name)
            if isinstance(found, type) or (module, name) in _ANSWER_TYPES:
                return found
        raise pickle.UnpicklingError("an answer held what no answer holds")


def _receive(
    connection: Connection,
    blocks: Sequence[Memory],
    unpickler: Callable[..., pickle.Unpickler],
    max_bytes: int | None,
) -> Any:
    table = _Answers(BytesIO(connection.recv_bytes(1 << 20))).load()
    message = connection.recv_bytes(max_bytes)
    places = [_Place(*row) for row in table]
    outside = sum(place.length for place in places if place.block is None)
    if max_bytes is not None and outside > max_bytes:
        raise pickle.UnpicklingError("an answer was larger than allowed")
    buffers = [_at(connection, place, blocks) for place in places]
    return unpickler(BytesIO(message), buffers=buffers).load()


def _at(connection: Connection, place: _Place, blocks: Sequence[Memory]) -> Memory:
    if place.block is not None:
        end = place.start + place.length
        if not 0 <= place.start <= end <= len(blocks[place.block]):
            raise pickle.UnpicklingError("an answer lay outside its block")
        return blocks[place.block][place.start : end]
    memory = np.empty(place.length, np.uint8)
    connection.recv_bytes_into(memory.data)
    return memory


def _find(raw: memoryview, blocks: Sequence[Memory]) -> _Place:
    begin = _address(np.frombuffer(raw, np.uint8))
    for index, block in enumerate(blocks):
        start = begin - _address(block)
        if start >= 0 and start + raw.nbytes <= len(block):
            return _Place(index, start, raw.nbytes)
    return _Place(None, 0, raw.nbytes)


def _address(array: Memory) -> int:
    return int(array.__array_interface__["data"][0])
