"""The network has the agreed shape, and its averages and schedule do what they say."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.keep_weights import keep_weights
from training.schedule import ClockSchedule, next_time_of_day
from training.train import dice_loss, update_average
from training.unet import UNet, parameter_count

pytestmark = pytest.mark.unit


def test_shape_and_size() -> None:
    net = UNet().eval()
    assert 1.5e6 < parameter_count(net) < 4e6
    with torch.no_grad():
        assert net(torch.zeros(2, 1, 64, 48)).shape == (2, 12, 64, 48)


def test_a_batch_gives_what_its_images_give() -> None:
    net = UNet().eval()
    images = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        single = torch.cat([net(image[None]) for image in images])
        assert torch.allclose(net(images), single, atol=1e-4)


def test_dice_loss_is_zero_for_the_truth_and_ignores_absent_classes() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.long)
    mask[:, :4] = 3
    sure = torch.nn.functional.one_hot(mask, 12).movedim(-1, 1).float() * 50
    assert float(dice_loss(sure, mask)) == pytest.approx(0, abs=1e-4)
    assert float(dice_loss(sure.roll(1, dims=1), mask)) > 0.9


def test_the_average_moves_towards_the_network() -> None:
    net, average = UNet((2, 4), 3), UNet((2, 4), 3)
    before = average.head.weight.detach().clone()
    update_average(average, net, 0.75)
    expected = 0.75 * before + 0.25 * net.head.weight
    assert torch.allclose(average.head.weight, expected, atol=1e-6)


def test_the_rate_rises_holds_and_falls_to_zero() -> None:
    schedule = ClockSchedule(end_s=1000.0, cooldown_s=100.0, warmup_steps=10)
    assert schedule.factor(0, 0.0) == pytest.approx(0.1)
    assert schedule.factor(50, 0.0) == 1.0
    assert schedule.factor(50, 950.0) == pytest.approx(0.5)
    assert schedule.factor(50, 1001.0) == 0.0


def test_a_time_of_day_that_has_passed_is_tomorrows() -> None:
    now = datetime(2026, 1, 1, 12, 0)
    assert next_time_of_day("12:30", now) == datetime(2026, 1, 1, 12, 30)
    assert next_time_of_day("11:30", now) == datetime(2026, 1, 2, 11, 30)


def test_kept_weights_are_the_average_in_half_precision(tmp_path: Path) -> None:
    average = UNet((2, 4), 3).state_dict()
    keep_weights(average, tmp_path / "sub" / "kept.safetensors")
    kept = load_file(tmp_path / "sub" / "kept.safetensors")
    assert kept.keys() == {k for k in average if not k.endswith("num_batches_tracked")}
    assert all(torch.equal(value, average[name].half()) for name, value in kept.items())
