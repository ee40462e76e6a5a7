r"""Keep the weights of a checkpoint: running average ▶ float16 safetensors, which the export reads.

python -m training.keep_weights --checkpoint FILE --weights training/weights/brain_mr.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

__all__ = ("keep_weights", "main")


def keep_weights(average: dict[str, torch.Tensor], weights: Path) -> None:
    """Write the averaged weights and batch statistics as float16 safetensors."""
    weights.parent.mkdir(parents=True, exist_ok=True)
    halves = {k: v.half().contiguous() for k, v in average.items() if v.dtype.is_floating_point}
    save_file(halves, weights)


def main() -> None:
    """Read a training checkpoint, which nobody but the training wrote, and keep its average."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    args = parser.parse_args()
    keep_weights(torch.load(args.checkpoint, weights_only=True)["average"], args.weights)


if __name__ == "__main__":
    main()
