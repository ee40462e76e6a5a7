"""A program that trains tiny nnU-Nets with nnU-Net's own code, and prints where they lie.

NIfTI cases ─▶ fingerprint ─▶ plans ─▶ preprocessing ─▶ one epoch of two steps ─▶ checkpoint

It runs as a process of its own: nnU-Net takes its folders from the environment, prints much and
starts processes, which are threads here because the cases are tiny.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocess.parsing import build

DATASET = "Dataset900_Tiny"
CASES = 5
LABELS: dict[str, Any] = {"background": 0, "organ": 1, "core": 2}
PROCESSES = "nnUNet_n_proc_DA"


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        channel: Name of the channel, by which nnU-Net chooses the normalisation.
        shape: Voxels of a case: slices, rows, columns.
        spacing_mm: Distance of its slices, rows, columns.
        labels: As in dataset.json; None means ``LABELS``.
        regions: ``regions_class_order``, for labels that are regions.
        margin: Voxels of value 0 on every side of a case, in rows and columns.
        configurations: Those that get a checkpoint.
        steps: Training steps; 0 writes the checkpoint of the network as it was initialised.
        reader: ``overwrite_image_reader_writer`` of dataset.json.
    """

    channel: str = "CT"
    shape: tuple[int, int, int] = (12, 56, 48)
    spacing_mm: tuple[float, float, float] = (3.0, 0.9, 0.8)
    labels: dict[str, Any] | None = None
    regions: tuple[int, ...] = ()
    margin: int = 0
    configurations: tuple[str, ...] = ("2d", "3d_fullres")
    steps: int = 2
    reader: str | None = None


def case(task: Task, seed: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """One case: an ellipsoid with a core in noisy air, in Hounsfield units, and its labels."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in task.shape), indexing="ij")
    centre = rng.uniform(-0.2, 0.2, 3)
    radius = np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)))
    labels = ((radius < 0.7).astype(np.uint8) + (radius < 0.35)).astype(np.uint8)
    values = np.choose(labels, (-950, 40, 180)) + rng.normal(0, 20, task.shape)
    image = np.where(np.abs(values) < 1, 1, values).astype(np.int16)
    if task.margin:
        edge = np.zeros(task.shape, bool)
        edge[:, task.margin : -task.margin, task.margin : -task.margin] = True
        image, labels = np.where(edge, image, 0).astype(np.int16), np.where(edge, labels, 0)
    return image, labels.astype(np.uint8)


def write_dataset(folder: Path, task: Task) -> None:
    """Writes the raw dataset as nnU-Net wants it: RAS NIfTI files and dataset.json."""
    import SimpleITK

    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for index in range(CASES):
        image, labels = case(task, index)
        for array, file in (
            (image, f"imagesTr/case{index}_0000.nii.gz"),
            (labels, f"labelsTr/case{index}.nii.gz"),
        ):
            volume: Any = SimpleITK.GetImageFromArray(array)
            volume.SetSpacing(task.spacing_mm[::-1])
            # Against the axes of LPS in x and y: the file's own axes run to R, A, S.
            volume.SetDirection((-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
            SimpleITK.WriteImage(volume, str(folder / file))
    description: dict[str, Any] = {
        "channel_names": {"0": task.channel},
        "labels": task.labels or LABELS,
        "numTraining": CASES,
        "file_ending": ".nii.gz",
    }
    if task.regions:
        description["regions_class_order"] = list(task.regions)
    if task.reader:
        description["overwrite_image_reader_writer"] = task.reader
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")


def train(root: Path, task: Task) -> dict[str, str]:
    """Plans, preprocesses and trains; returns the trained folder of each configuration."""
    for name in ("raw", "preprocessed", "results"):
        (root / name).mkdir(parents=True)
        os.environ[f"nnUNet_{name}"] = str(root / name)
    os.environ[PROCESSES] = "1"
    write_dataset(root / "raw" / DATASET, task)

    import torch
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
        ExperimentPlanner,
    )
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprint_dataset,
        plan_experiment_dataset,
        preprocess_dataset,
    )
    from nnunetv2.run.run_training import get_trainer_from_args

    class SmallPlanner(ExperimentPlanner):  # type: ignore[misc]
        """nnU-Net's planner with fewer features."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.UNet_base_num_features = 4
            self.UNet_max_features_2d = self.UNet_max_features_3d = 16

    class Threads:
        """Threads in place of processes that would each import everything again."""

        Pool = ThreadPool

    multiprocessing.get_context = lambda method=None: Threads  # type: ignore[assignment]
    torch.set_num_threads(1)
    extract_fingerprint_dataset(900, num_processes=1)
    plan_experiment_dataset(900, SmallPlanner)
    preprocess_dataset(900, configurations=task.configurations, num_processes=(1,))
    # The planner takes this as a number of threads, the trainer as one of processes.
    os.environ[PROCESSES] = "0"
    folders = {}
    for configuration in task.configurations:
        torch.manual_seed(0)
        np.random.seed(0)
        trainer = get_trainer_from_args("900", configuration, 0, device=torch.device("cpu"))
        trainer.num_epochs, trainer.num_iterations_per_epoch = 1, task.steps
        trainer.num_val_iterations_per_epoch = 1
        if task.steps:
            trainer.run_training()
        else:
            trainer.initialize()
            base = root / "preprocessed" / DATASET
            shutil.copy(base / "nnUNetPlans.json", Path(trainer.output_folder_base) / "plans.json")
            shutil.copy(base / "dataset.json", trainer.output_folder_base)
            trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
        folders[configuration] = str(trainer.output_folder_base)
    return folders


def main() -> None:
    """Command line: a folder, and tasks as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("tasks", nargs="+")
    arguments = parser.parse_args()
    tasks = [build(Task, json.loads(task), "task") for task in arguments.tasks]
    with redirect_stdout(sys.stderr):
        folders = [train(arguments.root / str(i), task) for i, task in enumerate(tasks)]
    sys.stdout.write(json.dumps(folders))


if __name__ == "__main__":
    main()
