"""Train the brain MR network: label maps ▶ drawn slices ▶ AdamW ▶ checkpoint with averages.

python -m training.train --maps DIR --run DIR --stop-at HH:MM [--cooldown-min 35] [--resume]

The end is a time of day and is written to `stop_at` in the run folder: change that file to end
earlier or later. `checkpoint.pt` is replaced every `--save-every` steps.
"""

from __future__ import annotations

import argparse
import copy
import logging
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from training.draw import draw_example
from training.label_maps import HeadMap, load_maps
from training.schedule import ClockSchedule, next_time_of_day
from training.unet import UNet, parameter_count

__all__ = ("DrawnBatches", "dice_loss", "main", "update_average")

_LOG = logging.getLogger(__name__)
_FULL_SIZE = 256
_HELD_OUT = ("05", "13")


class DrawnBatches(IterableDataset[tuple[Tensor, Tensor]]):
    """Endless batches: mostly `batch` crops of `size`, every fifth of whole canvases."""

    def __init__(self, maps: list[HeadMap], seed: int, batch: int, size: int, whole: Path) -> None:
        self.maps, self.seed, self.batch, self.size, self.whole = maps, seed, batch, size, whole

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng(self.seed)
        while True:
            full = self.whole.exists() or rng.random() < 0.2
            size, count = (_FULL_SIZE, self.batch * 5 // 8) if full else (self.size, self.batch)
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


def update_average(average: UNet, net: UNet, decay: float) -> None:
    """Move the running average of weights and batch statistics towards the network."""
    with torch.no_grad():
        for mine, new in zip(
            average.state_dict().values(), net.state_dict().values(), strict=True
        ):
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


def main() -> None:
    """Train until the stop time."""
    args = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.run.mkdir(parents=True, exist_ok=True)
    stop_file, whole_file = args.run / "stop_at", args.run / "whole"
    stop_file.write_text(args.stop_at)
    whole_file.unlink(missing_ok=True)
    maps = load_maps(args.maps, skip=_HELD_OUT)
    torch.manual_seed(args.seed)
    net = UNet().to(memory_format=torch.channels_last)
    average = copy.deepcopy(net)
    optimiser = torch.optim.AdamW(net.parameters(), lr=args.learning_rate, weight_decay=1e-2)
    step, trained_s = 0, 0.0
    if args.resume:
        state = torch.load(args.run / "checkpoint.pt")
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step, trained_s = state["step"], state["trained_s"]
    _LOG.info("%d parameters, %d maps, from step %d", parameter_count(net), len(maps), step)
    batches = DrawnBatches(maps, args.seed + 1000 + step, args.batch, args.size, whole_file)
    losses: list[float] = []
    begun_s = last_s = time.time()
    for images, masks in DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4):
        end = next_time_of_day(stop_file.read_text().strip(), datetime.fromtimestamp(begun_s))
        schedule = ClockSchedule(end.timestamp(), args.cooldown_min * 60)
        factor = schedule.factor(step, time.time())
        if factor == 0.0 or step % args.save_every == args.save_every - 1:
            torch.save(
                {
                    "net": net.state_dict(),
                    "average": average.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": step,
                    "trained_s": trained_s + time.time() - begun_s,
                },
                args.run / "checkpoint.tmp",
            )
            (args.run / "checkpoint.tmp").rename(args.run / "checkpoint.pt")
        if factor == 0.0:
            break
        if schedule.cooling(time.time()):
            whole_file.touch()
        for group in optimiser.param_groups:
            group["lr"] = args.learning_rate * factor
        images = images.to(memory_format=torch.channels_last)
        target = masks.long()
        with torch.autocast("cpu", torch.bfloat16):
            scores = net(images)
        scores = scores.float()
        loss = functional.cross_entropy(scores, target) + dice_loss(scores, target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        step += 1
        update_average(average, net, min(0.998, (1 + step) / (10 + step)))
        losses.append(loss.item())
        if step % 25 == 0:
            pace_s, last_s = (time.time() - last_s) / 25, time.time()
            mean_loss = float(np.mean(losses[-25:]))
            _LOG.info("step %d loss %.4f %.3f s/step rate %.2f", step, mean_loss, pace_s, factor)
    _LOG.info("ended at step %d", step)


if __name__ == "__main__":
    main()
