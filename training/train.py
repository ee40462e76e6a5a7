"""Train the brain MR network: label maps ▶ drawn slices ▶ AdamW ▶ checkpoint with averages.

python -m training.train --maps DIR --run DIR --stop-at HH:MM [--cooldown-min 35] [--resume]
torchrun --nproc-per-node 2 -m -- training.train --batch 4 ...

Where cores are shared with other work, processes of one thread each are faster than threads: they
wait for each other once a step, not in every layer.

The end is a time of day and is written to `stop_at` in the run folder: change that file to end
earlier or later. `checkpoint.pt` is replaced every `--save-every` steps.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from training.draw import draw_example
from training.label_maps import HeadMap, load_maps
from training.schedule import ClockSchedule, next_time_of_day
from training.unet import UNet, parameter_count

__all__ = ("DrawnBatches", "Trainer", "dice_loss", "main", "update_average")

_LOG = logging.getLogger(__name__)
_FULL_SIZE = 256
_HELD_OUT = ("05", "13")
# The nuclei are small: without a weight they are found late.
_CLASS_WEIGHT = torch.tensor([1.0, 1, 1, 1, 3, 4, 3, 4, 4, 4, 2, 1])
_FROZEN_RATE = 0.5
_STATEFUL = ("net", "average", "optimiser")


class DrawnBatches(IterableDataset[tuple[Tensor, Tensor]]):
    """Endless batches: mostly `batch` crops of `size`, every fifth of whole canvases."""

    def __init__(
        self, maps: list[HeadMap], seeds: tuple[int, int], batch: int, size: int, whole: Path
    ) -> None:
        self.maps, self.seeds, self.whole = maps, seeds, whole
        self.shapes = {False: (size, batch), True: (_FULL_SIZE, max(1, batch * 9 // 16))}

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng(self.seeds)
        shared = np.random.default_rng(self.seeds[0])  # all processes draw equal sizes
        while True:
            size, count = self.shapes[self.whole.exists() or shared.random() < 0.2]
            pairs = [draw_example(rng, self.maps, size) for _ in range(count)]
            images = np.stack([image for image, _ in pairs])[:, None]
            masks = np.stack([mask for _, mask in pairs])
            yield torch.from_numpy(images), torch.from_numpy(masks)


def dice_loss(scores: Tensor, mask: Tensor) -> Tensor:
    """Return 1 - soft Dice, over the batch, averaged over the classes that are present."""
    one_hot = functional.one_hot(mask, scores.shape[1]).movedim(-1, 1).float()
    chance = scores.softmax(1)
    overlap = (chance * one_hot).sum((0, 2, 3))
    total = (chance + one_hot).sum((0, 2, 3))
    present = one_hot.sum((0, 2, 3)) > 0
    dice = (2 * overlap + 1) / (total + 1)
    return 1 - dice[present].mean()


def shared_mean(values: Tensor) -> Tensor:
    """Return the mean over all processes; the values themselves where there is one."""
    if distributed.is_initialized():
        distributed.all_reduce(values)
        values /= distributed.get_world_size()
    return values


def average_gradients(net: UNet) -> None:
    """Replace every gradient by its mean over all processes."""
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    mean = shared_mean(torch.cat([g.flatten() for g in gradients]))
    start = 0
    for gradient in gradients:
        gradient.copy_(mean[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def batch_norms(net: UNet) -> list[nn.BatchNorm2d]:
    """Return the normalisations of the network."""
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def update_average(average: UNet, net: UNet, decay: float) -> None:
    """Move the running average of weights and batch statistics towards the network."""
    with torch.no_grad():
        for mine, new in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
            if mine.dtype.is_floating_point:
                mine.lerp_(new, 1 - decay)
            else:
                mine.copy_(new)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maps", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--stop-at", required=True)
    parser.add_argument("--cooldown-min", type=float, default=35.0)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args()


@dataclass
class Trainer:
    """Network, running average and optimiser, with the count of what they have seen."""

    net: UNet
    average: UNet
    optimiser: torch.optim.AdamW
    step: int = 0
    trained_s: float = 0.0
    frozen: bool = False

    @classmethod
    def fresh(cls, learning_rate: float) -> Trainer:
        """Start from random weights."""
        net = UNet()
        channels_last: Any = {"memory_format": torch.channels_last}
        net.to(**channels_last)
        optimiser = torch.optim.AdamW(net.parameters(), lr=learning_rate, weight_decay=1e-2)
        return cls(net, copy.deepcopy(net), optimiser)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        state = torch.load(path)
        for name in _STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self.step, self.trained_s = state["step"], state["trained_s"]
        self.frozen = state.get("frozen", False)

    def save(self, path: Path) -> None:
        """Replace the checkpoint, whole or not at all."""
        state: dict[str, Any] = {name: getattr(self, name).state_dict() for name in _STATEFUL}
        partial = path.with_suffix(".tmp")
        state |= {"step": self.step, "trained_s": self.trained_s, "frozen": self.frozen}
        torch.save(state, partial)
        partial.rename(path)

    def freeze(self, batches: Iterator[tuple[Tensor, Tensor]], count: int = 60) -> None:
        """Go on from the average, with batch statistics measured for it and kept from now on.

        The running statistics of small batches of unlike images are far off: with them the
        averaged network finds almost nothing.
        """
        self.net.load_state_dict(self.average.state_dict())
        self.net.train()
        for norm in batch_norms(self.net):
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all batches
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            for images, _ in islice(batches, count):
                self.net(images.to(memory_format=torch.channels_last))
        for norm in batch_norms(self.net):
            for values in (norm.running_mean, norm.running_var):
                if values is not None:
                    values.copy_(shared_mean(values))
        self.average.load_state_dict(self.net.state_dict())
        self.frozen = True

    def learn(self, images: Tensor, masks: Tensor, learning_rate: float) -> float:
        """Take one step and return its loss."""
        begun_s = time.monotonic()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        if self.frozen:
            for norm in batch_norms(self.net):
                norm.eval()
        target = masks.long()
        with torch.autocast("cpu", torch.bfloat16):
            scores = self.net(images.to(memory_format=torch.channels_last))
        scores = scores.float()
        loss = functional.cross_entropy(scores, target, _CLASS_WEIGHT) + dice_loss(scores, target)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        average_gradients(self.net)
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.optimiser.step()
        self.step += 1
        update_average(self.average, self.net, min(0.998, (1 + self.step) / (10 + self.step)))
        self.trained_s += time.monotonic() - begun_s
        return float(loss.item())


def _train(trainer: Trainer, args: argparse.Namespace) -> None:
    stop_file, whole_file = args.run / "stop_at", args.run / "whole"
    checkpoint = args.run / "checkpoint.pt"
    maps = load_maps(args.maps, skip=_HELD_OUT)
    _LOG.info("%d parameters, %d maps", parameter_count(trainer.net), len(maps))
    begun = datetime.now()
    seed = args.seed + 1000 + trainer.step
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    batches = DrawnBatches(maps, (seed, rank), args.batch, args.size, whole_file)
    losses: list[float] = []
    loader = iter(DataLoader(batches, batch_size=None))
    for images, masks in loader:
        end = next_time_of_day(stop_file.read_text().strip(), begun)
        schedule = ClockSchedule(end.timestamp(), args.cooldown_min * 60)
        factor = float(shared_mean(torch.tensor(schedule.factor(trainer.step, time.time()))))
        if rank == 0 and (factor == 0.0 or trainer.step % args.save_every == 0):
            trainer.save(checkpoint)
        if factor == 0.0:
            break
        if factor < 1.0 and trainer.step > schedule.warmup_steps and not trainer.frozen:
            whole_file.touch()
            trainer.freeze(loader)
        rate = args.learning_rate * factor * (_FROZEN_RATE if trainer.frozen else 1.0)
        losses.append(trainer.learn(images, masks, rate))
        if rank == 0 and trainer.step % 25 == 0:
            mean_loss = float(np.mean(losses[-25:]))
            _LOG.info("step %d loss %.4f rate %.2f", trainer.step, mean_loss, factor)


def main() -> None:
    """Train until the stop time."""
    args = _arguments()
    if "WORLD_SIZE" in os.environ:  # set by torchrun
        distributed.init_process_group("gloo")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.run.mkdir(parents=True, exist_ok=True)
    (args.run / "stop_at").write_text(args.stop_at)
    (args.run / "whole").unlink(missing_ok=True)
    torch.manual_seed(args.seed)
    trainer = Trainer.fresh(args.learning_rate)
    if args.resume:
        trainer.load(args.run / "checkpoint.pt")
    if trainer.frozen:
        (args.run / "whole").touch()
    _train(trainer, args)


if __name__ == "__main__":
    main()
