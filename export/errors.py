"""Every error of the export, one class for each thing that its user does differently.

ExportError
├── RecipeError     MODEL.yaml is wrong: mend the file
├── SourceError     the checkpoint cannot be read, is unsafe, or does not fit the recipe
├── GraphError      the network cannot become a valid ONNX graph
├── EngineError     an engine cannot be made from the graph, or was made for another machine
├── GateError       the answers moved by more than the limits
├── PublishError    the repository could not be changed; it is as it was
└── MissingPart     a package or a program is not installed: the message says which
"""

from __future__ import annotations

from typing import ClassVar

__all__ = (
    "EngineError",
    "ExportError",
    "GateError",
    "GraphError",
    "MissingPart",
    "PublishError",
    "RecipeError",
    "SourceError",
)


class ExportError(Exception):
    """Base of every error raised by this folder; ``exit_code`` is what the command ends with."""

    exit_code: ClassVar[int] = 1


class RecipeError(ExportError):
    """MODEL.yaml has an unknown or missing key, a wrong type, or a value that makes no sense."""

    exit_code = 3


class MissingPart(ExportError):
    """Something is not installed; the message says what to install."""

    exit_code = 3


class SourceError(ExportError):
    """A checkpoint is missing, corrupt, wants to run code, or does not fit its architecture."""

    exit_code = 4


class GraphError(ExportError):
    """The network cannot be exported, or the ONNX file breaks the contract of the graph."""

    exit_code = 5


class EngineError(ExportError):
    """A compiler or quantiser refused the graph, or a plan was built for another machine."""

    exit_code = 6


class GateError(ExportError):
    """An engine's answers differ from the float32 network's by more than the limits."""

    exit_code = 7


class PublishError(ExportError):
    """The model repository could not be changed; it is exactly as it was."""

    exit_code = 8
