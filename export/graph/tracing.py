"""Tracing: a torch module ▶ ONNX by torch's dynamo exporter, at the pinned opset."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr

import onnx
import torch
from torch import Tensor, nn

from export.errors import ExportError, GraphError

__all__ = ("OPSET", "trace")

OPSET = 18
_BATCH = torch.export.Dim("N", min=1, max=256)


def trace(
    module: nn.Module,
    shapes: dict[str, tuple[int, ...]],
    outputs: Sequence[str],
    dynamic_axes: Sequence[int] = (),
) -> onnx.ModelProto:
    """Traces a module; the first axis of every input is the batch.

    Args:
        module: In evaluation mode, on the CPU.
        shapes: Shape of each float32 input without its batch axis, by argument name, in order.
        outputs: Names of the outputs.
        dynamic_axes: Further axes (the batch is 0) of every input that may vary.

    Raises:
        GraphError: The module does not run, or cannot be traced.
    """
    examples = tuple(torch.zeros(2, *shape) for shape in shapes.values())
    axes = {0: _BATCH} | dict.fromkeys(dynamic_axes, torch.export.Dim.AUTO)
    # A foreign module raises anything; before the exporter, whose report would bury the reason.
    try:
        with torch.inference_mode():
            module(*examples)
    except ExportError:
        raise
    except Exception as error:
        raise GraphError(f"the network fails on images {_shapes(examples)}: {_line(error)}") from (
            error
        )
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(shapes),
                output_names=list(outputs),
                dynamic_shapes=dict.fromkeys(shapes, axes),
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise GraphError(f"torch cannot trace the network: {_line(_root(error))}") from error
    if program is None:
        raise GraphError("torch's exporter returned nothing")
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch's pages of trace, and warnings about its own doing, off the terminal."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        # It also prints the graph it had when it gave up.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.filterwarnings("ignore", r".*treespec, LeafSpec", FutureWarning)
            # Two inputs share the batch axis, as they should.
            warnings.filterwarnings("ignore", r"# The axis name: N will not be used", UserWarning)
            yield
    finally:
        logger.setLevel(level)


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _shapes(tensors: Sequence[Tensor]) -> str:
    return ", ".join(str(list(tensor.shape)) for tensor in tensors)
