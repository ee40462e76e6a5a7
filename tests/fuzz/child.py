"""One fuzzing process: coverage-guided inputs for one target, counted in a file that outlives it.

`python -m tests.fuzz.child dicom guided COUNTS -runs=1000 -seed=1`: libFuzzer ends the process at
the first input that breaks the target, hangs or takes too much memory, and keeps that input.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from random import Random

import atheris  # type: ignore[import-untyped]

_GUIDING = ["client.dicom", "client.ingest.bundle", "pydicom.filereader", "pydicom.encaps"]
_GUIDED = sys.argv[2:3] == ["guided"]

with atheris.instrument_imports(include=_GUIDING) if _GUIDED else nullcontext():
    from client.process import die_with_parent
    from tests.fuzz.message_mutations import mutate_message
    from tests.fuzz.mutations import mutate_file
    from tests.fuzz.seeds import dicom_seeds
    from tests.fuzz.tally import HANG_S, Tally
    from tests.fuzz.targets import message_seeds, parse_message, read_dicom

__all__ = ("main",)

_Target = Callable[[bytes], str]
_Mutate = Callable[[bytes, Random], bytes]
_Seeds = Callable[[], list[bytes]]
_TARGETS: dict[str, tuple[_Target, _Mutate, _Seeds]] = {
    "dicom": (read_dicom, mutate_file, dicom_seeds),
    "messages": (parse_message, mutate_message, message_seeds),
}
_ANEW = 0.8
"""Share of inputs that begin with a seed, not with what earlier mutations made of one."""
_UNGUIDED = 0.2
"""Share of inputs that libFuzzer mutates by itself, without knowledge of the format."""


def main(arguments: list[str]) -> None:
    """Fuzz until libFuzzer has had its runs."""
    die_with_parent()
    name, _, counts, *options = arguments
    target, mutate, seeds = _TARGETS[name]
    healthy = seeds()
    tally = Tally(Path(counts))

    def one(data: bytes) -> None:
        began = time.process_time_ns()
        outcome = target(data)
        cpu_ns = time.process_time_ns() - began
        tally.count(outcome, cpu_ns, data)
        if cpu_ns > HANG_S * 1e9:
            raise TimeoutError(f"An input took {cpu_ns / 1e9:.1f} s.")

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        rng = Random(seed)
        if rng.random() < _ANEW:
            data = rng.choice(healthy)
        if rng.random() < _UNGUIDED:
            return bytes(atheris.Mutate(data, max_size))
        return mutate(data, rng)[:max_size]

    atheris.Setup(["fuzz", *options], one, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
