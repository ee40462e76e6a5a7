"""State dicts: what is read, and every file that is refused, none of which may run code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from export.errors import SourceError
from export.sources.state import fit_state, read_state
from tests.export_networks import TinyUNet, tiny_unet

pytestmark = pytest.mark.unit


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return dict(tiny_unet().state_dict())


def _save(path: Path, content: Any, **arguments: Any) -> Path:
    torch.save(content, path, **arguments)
    return path


def _refusal(path: Path, **arguments: Any) -> str:
    with pytest.raises(SourceError) as caught:
        read_state(path, **arguments)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def _assert_same(read: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(read) == list(expected)
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())


def test_safetensors_and_both_formats_of_torch_read_alike(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    save_file(state, tmp_path / "a.safetensors")
    _assert_same(
        dict(sorted(read_state(tmp_path / "a.safetensors").items())), dict(sorted(state.items()))
    )
    _assert_same(read_state(_save(tmp_path / "a.pt", state)), state)
    old = _save(tmp_path / "old.pt", state, _use_new_zipfile_serialization=False)
    _assert_same(read_state(old), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_type_becomes_float32_and_integers_stay(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    values = torch.tensor([0.5, -1.25, 3.0])
    path = tmp_path / "half.safetensors"
    save_file({"weight": values.to(dtype), "steps": torch.tensor(7)}, path)
    read = read_state(path)
    assert read["weight"].dtype == torch.float32
    assert torch.equal(read["weight"], values)
    assert read["steps"].dtype == torch.int64


def test_a_key_descends_and_a_prefix_is_stripped(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    nested = {"model": {"average": {f"net.{k}": v for k, v in state.items()}}, "epoch": 3}
    path = _save(tmp_path / "nested.pt", nested)
    _assert_same(read_state(path, key="model.average", strip_prefix="net."), state)
    assert "among average" in _refusal(path, key="model.state_dict")
    assert "among model, epoch" in _refusal(path, key="network_weights")
    assert "a int" in _refusal(path, key="epoch")
    assert "'module.'" in _refusal(path, key="model.average", strip_prefix="module.")
    message = _refusal(path)
    assert "`key`" in message
    assert "model, epoch" in message


@pytest.mark.parametrize("name", ["none.pt", "none.safetensors"])
def test_missing_and_empty_files(tmp_path: Path, name: str) -> None:
    assert "No such file" in _refusal(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    assert "empty" in _refusal(tmp_path / name)
    assert "Is a directory" in _refusal(tmp_path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_and_random_files(
    tmp_path: Path, state: dict[str, torch.Tensor], suffix: str
) -> None:
    path = tmp_path / f"whole{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    content = path.read_bytes()
    for keep in (1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:keep])
        assert "not a whole" in _refusal(path)
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    assert "not a whole" in _refusal(path)


@pytest.mark.parametrize("kind", ["zip", "old", "pickle", "protocol 0"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_runs_nothing(
    tmp_path: Path, kind: str, state: dict[str, torch.Tensor]
) -> None:
    marker, path = tmp_path / "ran", tmp_path / "bomb.pt"
    content = {**state, "bomb": Bomb(marker)}
    if kind in {"zip", "old"}:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    else:
        path.write_bytes(pickle.dumps(Bomb(marker), protocol=0 if kind == "protocol 0" else 4))
    message = _refusal(path)
    assert "wants to run code" in message
    assert "posix.system" in message
    assert "safetensors" in message
    assert not marker.exists()


def test_a_pickled_module_is_refused_by_the_name_of_its_class(tmp_path: Path) -> None:
    message = _refusal(_save(tmp_path / "module.pt", nn.Conv2d(1, 1, 1)))
    assert "torch.nn.modules.conv.Conv2d" in message


def test_only_what_is_declared_safe_may_be_named(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    path = _save(tmp_path / "logged.pt", {"weights": state, "loss": np.float64(0.25)})
    assert "numpy" in _refusal(path, key="weights")
    scalar = np.float64(0).__reduce__()[0]
    safe = (scalar, np.dtype, type(np.dtype(np.float64)))
    _assert_same(read_state(path, key="weights", safe=safe), state)
    assert "numpy" in _refusal(path, key="weights")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    traced: Any = torch.jit.trace(tiny_unet(), torch.zeros(1, 1, 16, 16))  # type: ignore[no-untyped-call]
    torch.jit.save(traced, path)
    message = _refusal(path)
    assert "TorchScript" in message
    assert "state_dict" in message


@pytest.mark.parametrize("content", [[torch.zeros(1)], torch.zeros(3), {}, 5, "text"])
def test_what_is_no_state_dict(tmp_path: Path, content: Any) -> None:
    assert "expected a state dict" in _refusal(_save(tmp_path / "other.pt", content))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_name(
    tmp_path: Path, state: dict[str, torch.Tensor], value: float
) -> None:
    state["head.bias"] = torch.tensor([0.0, value, 0.0])
    assert "head.bias" in _refusal(_save(tmp_path / "nan.pt", state))


def test_a_double_beyond_float32_and_complex_numbers_are_refused(tmp_path: Path) -> None:
    big = {"w": torch.tensor([1e300], dtype=torch.float64)}
    assert "not finite in float32" in _refusal(_save(tmp_path / "big.pt", big))
    path = _save(tmp_path / "complex.pt", {"w": torch.zeros(2, dtype=torch.complex64)})
    assert "real numbers, got torch.complex64" in _refusal(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".old.pt"])
def test_damage_anywhere_ends_in_finite_numbers_or_a_clear_refusal(
    tmp_path: Path, state: dict[str, torch.Tensor], suffix: str
) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / f"damaged{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=suffix == ".pt")
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    refused = 0
    for reach in rng.choice([64, 1000, len(whole)], 150):
        damaged = whole.copy()
        damaged[rng.integers(0, min(len(whole), reach), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        read = _read_or_refuse(path)
        refused += read is None
        if read is not None and suffix == ".pt":
            _assert_same(read, state)
    assert refused > 20


def _read_or_refuse(path: Path) -> dict[str, torch.Tensor] | None:
    try:
        read = read_state(path)
    except SourceError:
        return None
    assert all(bool(torch.isfinite(tensor).all()) for tensor in read.values())
    return read


def test_fit_loads_every_tensor(state: dict[str, torch.Tensor]) -> None:
    module = TinyUNet().eval()
    fit_state(module, state, Path("w.pt"))
    _assert_same(dict(module.state_dict()), state)


def test_only_the_step_counter_of_a_normalisation_may_be_missing(
    state: dict[str, torch.Tensor],
) -> None:
    counter = "first.1.num_batches_tracked"
    assert counter in state
    del state[counter]
    fit_state(TinyUNet(), state, Path("w.pt"))
    del state["first.1.running_mean"]
    with pytest.raises(SourceError, match=r"missing: first\.1\.running_mean$"):
        fit_state(TinyUNet(), state, Path("w.pt"))


def test_everything_that_does_not_fit_is_named(state: dict[str, torch.Tensor]) -> None:
    del state["head.bias"]
    state["head.extra"] = torch.zeros(1)
    state["up.bias"] = torch.zeros(7)
    state["first.0.bias"] = torch.zeros(6, dtype=torch.int64)
    before = {k: v.clone() for k, v in TinyUNet().state_dict().items()}
    module = TinyUNet()
    module.load_state_dict(before)
    with pytest.raises(SourceError) as caught:
        fit_state(module, state, Path("w.pt"))
    message = str(caught.value)
    assert message.startswith("w.pt: the weights do not fit TinyUNet")
    for part in (
        "missing: head.bias",
        "unexpected: head.extra",
        "up.bias expected float [6], came float [7]",
        "first.0.bias expected float [6], came integer [6]",
    ):
        assert part in message
    _assert_same(dict(module.state_dict()), before)


def test_many_faults_are_counted(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(SourceError, match=r"missing: .* and \d+ more; unexpected: .*and \d+ more"):
        fit_state(TinyUNet(), {f"net.{k}": v for k, v in state.items()}, Path("w.pt"))
