"""Arrays in and out of Triton's Python backend, by DLPack only.

Triton 24.10's own conversions read NumPy 2 arrays wrongly and without an error: inputs come out
with wrong values, outputs empty. DLPack is right for every numeric type, so nothing else here or
in the model repository may touch ``as_numpy`` or construct a ``Tensor``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from preprocess.serving.configured import OUTPUTS

__all__ = ("failed", "invalid", "later", "quiet_capsules", "read", "respond", "wanted")


def read(request: Any, name: str) -> NDArray[Any]:
    """One input of a request, batch axis first.

    Returns:
        A read-only, perhaps unaligned view into shared memory, valid during ``execute`` only.
    """
    array: NDArray[Any] = np.from_dlpack(pb_utils.get_input_tensor_by_name(request, name))
    return array


def wanted(request: Any) -> set[str]:
    """Names of the outputs that a request asks for.

    An ensemble asks its steps for everything, whatever it was asked for itself; but it hands the
    request's parameters on. So where there is the parameter ``outputs``, it decides.
    """
    asked = {str(name) for name in request.requested_output_names()}
    named = json.loads(request.parameters() or "{}").get(OUTPUTS)
    return asked if named is None else asked & set(str(named).split(","))


def respond(arrays: Mapping[str, NDArray[Any]]) -> Any:
    """A response with outputs by name; each array must be C-contiguous and writeable."""
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor.from_dlpack(name, array) for name, array in arrays.items()]
    )


def invalid(message: str) -> Any:
    """A response that tells the caller that its tensors are wrong (INVALID_ARGUMENT)."""
    error = pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
    return pb_utils.InferenceResponse([], error)


def failed(message: str) -> Any:
    """A response that tells the caller that the model failed (INTERNAL)."""
    return pb_utils.InferenceResponse([], pb_utils.TritonError(message))


def later(request: Any) -> Callable[[Any], None]:
    """What sends a request's one response from any thread, perhaps after ``execute``.

    Triton 24.10 takes responses so from models that are not decoupled as well; ``execute`` then
    returns None.
    """
    send: Callable[..., None] = request.get_response_sender().send
    return partial(send, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def quiet_capsules() -> None:
    """Drops the one harmless complaint that NumPy makes when Triton frees its DLPack capsule."""
    shown = sys.unraisablehook

    def hook(event: Any) -> None:
        if not (event.exc_type is ValueError and "PyCapsule" in str(event.exc_value)):
            shown(event)

    sys.unraisablehook = hook
