"""The ONNX source: a file as it is, whose scores, or the mask made of them, become our heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from export.errors import SourceError
from export.recipe import OnnxSource, Recipe
from export.sources.described import read_described
from export.sources.network import SourceNetwork
from export.sources.onnx_model import (
    ModelSession,
    as_network,
    image_input,
    read_model,
)

__all__ = ("files", "open_onnx")

_CHANNELS = 1
_MASK = "mask"
_TOLERANCE = 1e-3


def open_onnx(recipe: Recipe, source: OnnxSource) -> SourceNetwork:
    """Reads an ONNX file and sends images through it.

    The scores are the tensor that the recipe names. In a file that ends with a ``mask``, they are
    what its ArgMax takes.

    Raises:
        RecipeError: The description lacks what this source does not know.
        SourceError: Damaged, of foreign operators, without scores, or its answer has another
            shape than a score for each class, or depends on the rest of the batch.
    """
    path = recipe.resolve(source.file)
    model = read_model(path)
    dims = [d.dim_value for d in image_input(model, path).type.tensor_type.shape.dim]
    axes = len(dims) - 2
    described = read_described(recipe, axes)
    spatial = described.turn.size(described.size) if axes == 2 else tuple(dims[2:])
    if dims[0] not in {0, 1} or dims[1] not in {0, _CHANNELS} or not _fits(dims[2:], spatial):
        raise SourceError(
            f"{path}: expected an image [N, {_CHANNELS}, *{list(spatial) if all(spatial) else '?'}]"
            f", its input is {['any' if dim == 0 else dim for dim in dims]}"
        )
    scores = _find_scores(model, source.scores, path)
    _probe(model, path, scores, (described.classes, *spatial))
    return SourceNetwork(
        module=None,
        onnx=path,
        scores=scores,
        channels=_CHANNELS,
        spatial=spatial,
        classes=described.classes,
        facts={"source": path.name, "source_scores": scores},
    )


def files(recipe: Recipe, source: OnnxSource) -> tuple[Path, ...]:
    """The file, and those that hold its external data.

    Raises:
        SourceError: The file is missing or damaged.
    """
    path = recipe.resolve(source.file)
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DecodeError as error:
        raise SourceError(f"{path}: not a whole ONNX file: {error}") from error
    places = {
        entry.value
        for tensor in _tensors(model.graph)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return (path, *sorted(path.parent / place for place in places))


def _fits(dims: Sequence[int], spatial: Sequence[int]) -> bool:
    return all(spatial) and all(dim in {0, size} for dim, size in zip(dims, spatial, strict=True))


def _find_scores(model: onnx.ModelProto, name: str, path: Path) -> str:
    made_by = {output: node for node in model.graph.node for output in node.output}
    if name in made_by:
        # The heads take scores: a softmax over the classes is theirs to do.
        return made_by[name].input[0] if _is_over_classes(made_by[name], "Softmax") else name
    outputs = [output.name for output in model.graph.output]
    node = made_by.get(_MASK) if _MASK in outputs else None
    while node is not None and node.op_type in {"Cast", "Squeeze", "Identity"}:
        node = made_by.get(node.input[0])
    if node is not None and _is_over_classes(node, "ArgMax"):
        return _find_scores(model, node.input[0], path)
    raise SourceError(
        f"{path}: expected a tensor {name!r} of class scores, or an output {_MASK!r} that is an "
        f"ArgMax over the classes; its outputs are {outputs}: name the scores with `scores`"
    )


def _is_over_classes(node: onnx.NodeProto, operator: str) -> bool:
    axis = next((a.i for a in node.attribute if a.name == "axis"), None)
    return node.op_type == operator and axis == 1


def _probe(model: onnx.ModelProto, path: Path, scores: str, shape: tuple[int, ...]) -> None:
    """Two images at once and each alone: the shape of the scores, and that batches do not mix."""
    session = ModelSession(as_network(model, path, [scores], shape[1:]), path)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, _CHANNELS, *shape[1:])).astype(np.float32)
    together = session.run(images)[0]
    expected = (2, *shape)
    if together.shape != expected or together.dtype != np.float32:
        raise SourceError(
            f"{path}: expected {scores!r} float32 {list(expected)}, came {together.dtype} "
            f"{list(together.shape)}"
        )
    alone = np.concatenate([session.run(image[None])[0] for image in images])
    if not np.allclose(together, alone, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise SourceError(f"{path}: {scores!r} of an image depends on the others in its batch")


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)
