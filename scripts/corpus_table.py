"""Writes docs/corpus-outcomes.md: what every DICOM file of the test wheels ends as, and why."""

from __future__ import annotations

from pathlib import Path

from preprocess.spec import find_model_specs
from tests.corpus import corpus, outcome_table, read_and_route

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Read and route every sample with the models of the repository."""
    specs = find_model_specs(ROOT / "model_repository")
    samples = corpus()
    outcomes = [outcome for sample in samples for outcome in read_and_route(sample, specs)]
    table = outcome_table(samples, outcomes)
    (ROOT / "docs" / "corpus-outcomes.md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
