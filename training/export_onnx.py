r"""Export a checkpoint: averaged weights ▶ ONNX with the mask inside the graph ▶ parity check.

python -m training.export_onnx --checkpoint FILE --maps DIR \
    --onnx model_repository/brain_mr_net/1/model.onnx \
    --weights training/weights/brain_mr.safetensors
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.torch import load_file, save_file

from training.label_maps import data_hash
from training.unet import MaskNet, UNet

__all__ = ("SIZE", "export", "half_weights", "load_net", "main", "parity")

SIZE = 256
_OPSET = 17


def load_net(weights: Path) -> UNet:
    """Return the network in evaluation mode, from a safetensors file in half precision."""
    net = UNet()
    net.load_state_dict({k: v.float() for k, v in load_file(weights).items()}, strict=False)
    return net.eval()


def half_weights(average: dict[str, torch.Tensor], weights: Path) -> None:
    """Write the averaged weights and batch statistics as float16 safetensors."""
    weights.parent.mkdir(parents=True, exist_ok=True)
    halves = {k: v.half().contiguous() for k, v in average.items() if v.dtype.is_floating_point}
    save_file(halves, weights)


def export(net: UNet, path: Path, properties: dict[str, str]) -> None:
    """Write the ONNX file: `image` [N,1,256,256] float32 ▶ `mask` [N,256,256] uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        MaskNet(net).eval(),
        (torch.zeros(1, 1, SIZE, SIZE),),
        str(path),
        opset_version=_OPSET,
        input_names=["image"],
        output_names=["mask"],
        dynamic_axes={"image": {0: "N"}, "mask": {0: "N"}},
        do_constant_folding=True,
        dynamo=False,
    )
    model = onnx.load(path)
    for dim in model.graph.output[0].type.tensor_type.shape.dim[1:]:
        dim.dim_value = SIZE
    for key, value in properties.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def parity(net: UNet, path: Path, seed: int = 0) -> float:
    """Return the fraction of pixels in which ONNX Runtime and torch agree, on random images."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((3, 1, SIZE // 8, SIZE // 8), np.float32)
    image = np.kron(coarse, np.ones((8, 8), np.float32))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (mask,) = session.run(["mask"], {"image": image})
    with torch.no_grad():
        expected = MaskNet(net)(torch.from_numpy(image)).numpy()
    return float((mask == expected).mean())


def _revision() -> str:
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Write the weights, export from them, and fail unless both runtimes agree.

    Raises:
        SystemExit: The runtimes differ in more than one pixel of 10,000.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--maps", type=Path, required=True)
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    args = parser.parse_args()
    state = torch.load(args.checkpoint)
    half_weights(state["average"], args.weights)
    net = load_net(args.weights)
    properties = {
        "spec": "brain_mr",
        "git_revision": _revision(),
        "torch_version": torch.__version__,
        "training_data_sha256": data_hash(args.maps),
        "training_steps": str(state["step"]),
    }
    export(net, args.onnx, properties)
    agreement = parity(net, args.onnx)
    print(f"{args.onnx}: step {state['step']}, agreement with torch {agreement:.6f}")  # noqa: T201
    if agreement < 0.9999:
        raise SystemExit(f"expected ONNX Runtime to agree with torch, got {agreement}")


if __name__ == "__main__":
    main()
