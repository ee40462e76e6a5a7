"""Small ONNX networks with the shape of ours, for tests that need no trained one."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from preprocess.spec import Head

__all__ = ("EMBEDDING", "write_network")

WIDTHS = (8, 16)
CLASSES = 12
EMBEDDING = WIDTHS[1]


def write_network(path: Path, side: int = 256, seed: int = 0, heads: Collection[Head] = ()) -> None:
    """Writes a random two-level U-Net: image float32 [N, 1, side, side] to mask uint8 [N, ...].

    It looks at its neighbourhood and uses every class, so that masks tell slices apart.

    Args:
        path: The file to write.
        side: Rows and columns.
        seed: Of the weights.
        heads: What it answers beside the mask; the embedding is the mean of the lower level.
    """
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def constant(name: str, value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(value, name))
        return name

    def add(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def convolve(name: str, source: str, channels: tuple[int, int], size: int = 3) -> str:
        spread = np.sqrt(2 / (channels[0] * size * size))
        kernel = rng.normal(0, spread, (channels[1], channels[0], size, size))
        weight = constant(f"{name}_w", kernel.astype(np.float32))
        bias = constant(f"{name}_b", rng.normal(0, 0.1, channels[1]).astype(np.float32))
        pads = [size // 2] * 4
        return add("Conv", [source, weight, bias], name, kernel_shape=[size] * 2, pads=pads)

    top = add("Relu", [convolve("c1", "image", (1, WIDTHS[0]))], "r1")
    low = add("MaxPool", [top], "p1", kernel_shape=[2, 2], strides=[2, 2])
    low = add("Relu", [convolve("c2", low, WIDTHS)], "r2")
    scales = constant("scales", np.array([1, 1, 2, 2], dtype=np.float32))
    up = add("Resize", [low, "", scales], "up", mode="nearest")
    both = add("Concat", [top, up], "both", axis=1)
    logits = convolve("logits", both, (sum(WIDTHS), CLASSES), size=1)
    best = add("ArgMax", [logits], "best", axis=1, keepdims=0)
    add("Cast", [best], "mask", to=TensorProto.UINT8)
    if heads:
        share = add("Softmax", [logits], "share", axis=1)
        least = constant("least", np.array(1e-30, dtype=np.float32))
        surprise = add("Log", [add("Max", [share, least], "bounded")], "surprise")
        axes = constant("axes", np.array([1]))
        entropy = add(
            "ReduceSum", [add("Mul", [share, surprise], "terms"), axes], "entropy", keepdims=0
        )
        full = constant("full", np.array(-255 / np.log(CLASSES), dtype=np.float32))
        level = add("Round", [add("Mul", [entropy, full], "scaled")], "level")
        add("Cast", [level], Head.UNCERTAINTY, to=TensorProto.UINT8)
        features = add("GlobalAveragePool", [low], "features")
        add("Flatten", [features], Head.EMBEDDING)
    shapes: dict[str, tuple[int, list[str | int]]] = {
        "mask": (TensorProto.UINT8, ["N", side, side]),
        Head.UNCERTAINTY: (TensorProto.UINT8, ["N", side, side]),
        Head.LOGITS: (TensorProto.FLOAT, ["N", CLASSES, side, side]),
        Head.EMBEDDING: (TensorProto.FLOAT, ["N", EMBEDDING]),
    }
    outputs = [helper.make_tensor_value_info(str(name), *shapes[name]) for name in ("mask", *heads)]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, side, side])],
        outputs,
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
