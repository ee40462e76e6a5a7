"""Turning between canvas and network, held to nibabel's own reorientation of arrays."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from nibabel import orientations
from numpy.typing import NDArray
from torch import Tensor, nn

from export.errors import RecipeError
from export.graph.eager import EagerNetwork
from export.graph.exporting import export_graph
from export.recipe import GraphOptions
from export.sources.orientation import canvas_code, plan_turn
from preprocess.spec import Plane
from tests.export_networks import smooth_images, tiny_network, tiny_spec, tiny_unet

pytestmark = pytest.mark.unit

nib: Any = orientations
# nibabel's order: the code names the end that an axis grows to.
_AXES = {"R": ("L", "R"), "L": ("L", "R"), "A": ("P", "A"), "P": ("P", "A")}
_AXES |= {"S": ("I", "S"), "I": ("I", "S")}
CANVASES = [(plane, canvas_code(plane, axes)) for plane in Plane for axes in (2, 3)]
LEGAL = [
    (plane, "".join(code))
    for plane, canvas in CANVASES
    for order in permutations(canvas)
    for code in product(*(_AXES[letter] for letter in order))
]


class Biased(nn.Module):
    """One convolution with nothing symmetric about it."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(3, 1, 3, 3, generator=generator))

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.conv2d(image, self.weight, padding=1)


def by_nibabel(array: NDArray[np.float32], start: str, end: str) -> NDArray[np.float32]:
    """Reorients the last axes of an array from one code to another, without any code of ours."""
    pairs = tuple(_AXES[letter] for letter in start)
    turn = nib.ornt_transform(nib.axcodes2ornt(start, pairs), nib.axcodes2ornt(end, pairs))
    lead = np.moveaxis(array, range(array.ndim - len(start)), range(-array.ndim + len(start), 0))
    turned = nib.apply_orientation(lead, turn)
    back = np.moveaxis(turned, range(len(start), array.ndim), range(array.ndim - len(start)))
    return np.ascontiguousarray(back)


def test_the_canvas_grows_as_the_documentation_says() -> None:
    assert [canvas_code(plane) for plane in Plane] == ["PL", "IL", "IP"]
    assert [canvas_code(plane, 3) for plane in Plane] == ["SPL", "PIL", "RIP"]


def test_there_are_as_many_turns_as_there_should_be() -> None:
    assert len(LEGAL) == len(set(LEGAL)) == 3 * (8 + 48)


@pytest.mark.parametrize(("plane", "code"), LEGAL)
def test_every_turn_is_nibabels_there_and_back(plane: Plane, code: str) -> None:
    canvas = canvas_code(plane, len(code))
    shape = (5, 7, 4)[: len(code)]
    array = np.random.default_rng(0).standard_normal((2, 3, *shape)).astype(np.float32)
    turn = plan_turn(code, [plane], len(code))
    turned = turn.to_network(torch.from_numpy(array))
    assert np.array_equal(turned, by_nibabel(array, canvas, code))
    assert np.array_equal(turn.to_canvas(turned), array)
    masks = torch.from_numpy(array[:, 0])
    assert np.array_equal(turn.to_canvas(turn.to_network(masks)), masks)
    assert turn.size(shape) == tuple(turned.shape[2:])
    assert turn.canvas_size(turn.size(shape)) == shape
    assert turn.is_identity == (code == canvas)


@pytest.mark.parametrize("code", [code for plane, code in LEGAL if plane == "axial"][:8])
def test_an_exported_graph_answers_as_if_the_image_were_turned_by_hand(
    tmp_path: Path, code: str
) -> None:
    heads = ("uncertainty", "logits")
    spec = tiny_spec(size=(32, 24), heads=heads)
    network = tiny_network(Biased(), spatial=plan_turn(code, [Plane.AXIAL]).size((32, 24)))
    export_graph(network, spec, GraphOptions(orientation=code), tmp_path / "g.onnx", {})
    images = smooth_images(2, 32, 24)
    with torch.inference_mode():
        scores = Biased()(torch.from_numpy(by_nibabel(images, "PL", code))).numpy()
    expected = by_nibabel(scores, code, "PL")
    answer = _answers(tmp_path / "g.onnx", images)
    np.testing.assert_allclose(answer["logits"], expected, atol=1e-5)
    assert np.array_equal(answer["mask"], expected.argmax(1))
    plain = EagerNetwork(network, spec, GraphOptions(orientation=code)).run(images)
    assert np.array_equal(answer["uncertainty"], plain["uncertainty"])
    if code != "PL":
        with torch.inference_mode():
            unturned = Biased()(torch.from_numpy(images)).numpy()
        assert np.abs(unturned - expected).max() > 0.1


def test_what_the_source_knows_counts_unless_the_recipe_says_otherwise() -> None:
    images = smooth_images(1, 64, 64)
    known = tiny_network(orientation="AR")
    bare = tiny_network()
    spec = tiny_spec()
    by_source = EagerNetwork(known, spec, GraphOptions()).run(images)["logits"]
    by_recipe = EagerNetwork(bare, spec, GraphOptions(orientation="AR")).run(images)["logits"]
    overruled = EagerNetwork(known, spec, GraphOptions(orientation="PL")).run(images)["logits"]
    plain = EagerNetwork(bare, spec, GraphOptions()).run(images)["logits"]
    assert np.array_equal(by_source, by_recipe)
    assert np.array_equal(overruled, plain)
    assert np.abs(by_source - plain).max() > 0.1


def test_a_volume_is_turned_with_all_its_axes(tmp_path: Path) -> None:
    module = tiny_unet(axes=3)
    network = tiny_network(module, spatial=(8, 16, 12))
    options = GraphOptions(orientation="RAS")
    info = export_graph(network, None, options, tmp_path / "v.onnx", {})
    assert info.inputs["image"].dims == ("N", 1, 12, 16, 8)
    volume = smooth_images(2, 12, 16, 8)
    with torch.inference_mode():
        scores = module(torch.from_numpy(by_nibabel(volume, "SPL", "RAS"))).numpy()
    mask = _answers(tmp_path / "v.onnx", volume)["mask"]
    assert np.array_equal(mask, by_nibabel(scores, "RAS", "SPL").argmax(1))
    assert len(np.unique(mask)) > 1


@pytest.mark.parametrize("code", ["IL", "SPL", "SP", "AS"])
def test_a_code_of_another_plane_is_refused(code: str) -> None:
    with pytest.raises(RecipeError, match="'PL', in any order"):
        plan_turn(code, [Plane.AXIAL])


def test_several_planes_take_the_canvas_as_it_is() -> None:
    assert plan_turn(None, list(Plane)).is_identity
    with pytest.raises(RecipeError, match="several planes"):
        plan_turn("RA", [Plane.AXIAL, Plane.CORONAL])


def _answers(path: Path, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images}), strict=True))
