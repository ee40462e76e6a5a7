"""State dicts: a file of weights, which is never allowed to run code ▶ named float32 tensors."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from export.errors import SourceError

__all__ = ("fit_state", "read_checkpoint", "read_state", "state_of")

_SHOWN = 4
# What a pickle of plain tensors names, and what torch itself allows.
_HARMLESS = ("collections.OrderedDict", "torch._utils._rebuild", "torch.storage.", "torch.Size")


def read_state(
    path: Path, *, key: str = "", strip_prefix: str = "", safe: Sequence[Any] = ()
) -> dict[str, Tensor]:
    """Reads a state dict.

    Args:
        path: safetensors file (by its suffix), or what ``torch.save`` wrote.
        key: Where in the file the state dict lies, as ``average`` or ``model.state_dict``;
            "" means the file is the state dict.
        strip_prefix: Prefix that is removed from every name.
        safe: Classes and functions which the file may name beyond those that torch allows.

    Returns:
        Tensors on the CPU by name; floating point ones in float32.

    Raises:
        SourceError: Missing, damaged, wants to run code, not a state dict, or not finite.
    """
    return state_of(read_checkpoint(path, safe), path, key=key, strip_prefix=strip_prefix)


def read_checkpoint(path: Path, safe: Sequence[Any] = ()) -> Any:
    """Reads whatever a file of weights holds, without running code from it.

    Args:
        path: See ``read_state``.
        safe: See ``read_state``.

    Raises:
        SourceError: Missing, damaged, or wants to run code.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: expected a file of weights: {error.strerror}") from error
    if not content:
        raise SourceError(f"{path}: expected weights, got an empty file")
    if path.suffix != ".safetensors":
        return _read_pickled(path, content, safe)
    # The safetensors library defines one error, which is not a subclass of ValueError or OSError.
    try:
        return load_safetensors(content)
    except Exception as error:
        raise SourceError(f"{path}: not a whole safetensors file: {_line(error)}") from error


def state_of(
    content: Any, path: Path, *, key: str = "", strip_prefix: str = ""
) -> dict[str, Tensor]:
    """Takes the state dict out of what a file holds; arguments and errors as ``read_state``."""
    for part in key.split(".") if key else ():
        if not isinstance(content, Mapping) or part not in content:
            raise SourceError(f"{path}: no {key!r} in it: {part!r} is not among {_keys(content)}")
        content = content[part]
    where = f"{path}: {key}" if key else str(path)
    if not isinstance(content, Mapping) or not content:
        raise SourceError(f"{where}: expected a state dict, got {_kind(content)}")
    strangers = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise SourceError(
            f"{where}: expected only tensors, but {strangers[0]!r} is "
            f"{_kind(content[strangers[0]])}; name the state dict with `key`; "
            f"the file has {_keys(content)}"
        )
    if strip_prefix and not any(str(name).startswith(strip_prefix) for name in content):
        raise SourceError(f"{where}: no name starts with {strip_prefix!r}: {_keys(content)}")
    return {
        str(name).removeprefix(strip_prefix): _usable(tensor, f"{where}: {name}")
        for name, tensor in content.items()
    }


def fit_state(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Loads a state dict into a module; every name, shape and kind of number must fit.

    Only ``*.num_batches_tracked`` may be missing: it counts training steps of a batch
    normalisation and has no part in an answer.

    Raises:
        SourceError: Names that are missing, unexpected, or of another shape or kind.
    """
    expected = module.state_dict()
    missing = [
        name for name in expected if name not in state and not name.endswith(".num_batches_tracked")
    ]
    unexpected = [name for name in state if name not in expected]
    wrong = [
        f"{name} expected {_form(tensor)}, came {_form(state[name])}"
        for name, tensor in expected.items()
        if name in state and _form(tensor) != _form(state[name])
    ]
    parts = (("missing", missing), ("unexpected", unexpected), ("different", wrong))
    if faults := "; ".join(f"{what}: {_some(names)}" for what, names in parts if names):
        raise SourceError(f"{path}: the weights do not fit {type(module).__name__}: {faults}")
    module.load_state_dict({**expected, **state})


def _read_pickled(path: Path, content: bytes, safe: Sequence[Any]) -> Any:
    members = _zip_members(path, content)
    if any(name.endswith("/constants.pkl") for name in members):
        raise SourceError(
            f"{path}: expected a state dict, got a TorchScript archive, which carries code; save "
            "module.state_dict() as safetensors"
        )
    # A damaged pickle raises whatever the step it derails in raises; there is no common type.
    try:
        with torch.serialization.safe_globals(list(safe)):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        if wanted := _foreign_globals(content, members):
            raise SourceError(
                f"{path}: wants to run code while it is read ({_some(wanted)}): refused; if you "
                "trust it, read it where it was made and save its state dict as safetensors"
            ) from error
        raise SourceError(f"{path}: not a whole file of torch.save: {_line(error)}") from error


def _zip_members(path: Path, content: bytes) -> tuple[str, ...]:
    """Names in a zip archive, whose checksums torch does not look at; none for another file."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return ()
    # A damaged archive raises errors of the archive, of its compression, and of its text.
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names, broken = tuple(archive.namelist()), archive.testzip()
    except Exception as error:
        raise SourceError(f"{path}: not a whole zip archive: {_line(error)}") from error
    if broken is not None:
        raise SourceError(
            f"{path}: not a whole file of torch.save: the checksum of {broken} is wrong; it is "
            "damaged, or was saved without checksums"
        )
    return names


def _foreign_globals(content: bytes, members: Iterable[str]) -> list[str]:
    """Names of what a refused pickle wants to import, beyond what tensors need."""
    pickled = next((name for name in members if name.endswith("/data.pkl")), None)
    if pickled is None:
        return _globals_in(io.BytesIO(content))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return _globals_in(io.BytesIO(archive.read(pickled)))


def _globals_in(stream: io.BytesIO) -> list[str]:
    found: list[str] = []
    texts: list[str] = []
    # A file of the old format is several pickles, one after the other.
    # After the last comes raw data, on which the disassembly ends with any error.
    with suppress(Exception):
        while True:
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name in {"GLOBAL", "INST"}:
                    found.append(str(argument).replace(" ", "."))
                elif operation.name == "STACK_GLOBAL":
                    found.append(".".join(texts[-2:]))
                elif "UNICODE" in operation.name:
                    texts.append(str(argument))
    return [name for name in dict.fromkeys(found) if not _is_harmless(name)]


def _is_harmless(name: str) -> bool:
    is_storage = name.startswith("torch.") and name.endswith("Storage")
    return is_storage or name.startswith(_HARMLESS)


def _usable(tensor: Tensor, where: str) -> Tensor:
    if tensor.is_quantized or tensor.is_complex() or tensor.layout != torch.strided:
        raise SourceError(f"{where}: expected a dense tensor of real numbers, got {tensor.dtype}")
    if not tensor.is_floating_point():
        return tensor
    single = tensor.detach().to(torch.float32)
    if not bool(torch.isfinite(single).all()):
        raise SourceError(f"{where}: holds values that are not finite in float32")
    return single


def _form(tensor: Tensor) -> str:
    numbers = "float" if tensor.is_floating_point() else "integer"
    return f"{numbers} {list(tensor.shape)}"


def _keys(content: Any) -> str:
    return _some([str(key) for key in content]) if isinstance(content, Mapping) else _kind(content)


def _kind(value: Any) -> str:
    empty = isinstance(value, Mapping) and not value
    return "an empty mapping" if empty else f"a {type(value).__name__}"


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _line(error: Exception) -> str:
    """The first line of an error, since torch's go on with pages of advice."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
