"""Runs fuzzing processes one after another until enough inputs were tried; keeps their findings.

seeds ──▶ child (libFuzzer, limits on time and memory) ──▶ counts, findings ──▶ progress file

A finding is an input that was not answered by a typed code: it raised something else, killed the
process, took longer than ``HANG_S`` or more memory than ``MEMORY_MIB``. What the reader's own
isolation makes of it is asked apart.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from client.process import tied_command
from tests.fuzz.tally import Tally

# Linux counts the memory of whoever starts a process as that process's own peak (getrusage(2)): a
# small process in between keeps the fuzzing one's figure its own.
_BETWEEN = (
    "import os, subprocess, sys; "
    "child = subprocess.Popen(sys.argv[2:]); "
    "_, status, usage = os.wait4(child.pid, 0); "
    "open(sys.argv[1], 'w').write(str(usage.ru_maxrss)); "
    "sys.exit(os.waitstatus_to_exitcode(status) != 0)"
)

__all__ = ("MEMORY_MIB", "Campaign", "Progress")

MEMORY_MIB = 1024
_MAX_INPUT_BYTES = 64 << 10
_ROOT = Path(__file__).parents[2]
_BATCH = 10_000
_GUIDED_BATCH = 1_000
_STUCK_S = 120
"""By the clock, for what waits without working; a busy machine must not count as a hang."""
_KINDS = {"crash": "crash", "timeout": "hang", "oom": "memory"}


@dataclass
class Progress:
    """What a campaign has seen so far.

    Attributes:
        answers: How often each typed answer was given.
        findings: Kind of each finding by the input's name; empty is what we want.
        distinct: Different inputs, counted within each process.
        slowest_s: The longest time an input took.
        peak_rss_mib: The largest resident memory of a fuzzing process.
        seconds: Time spent.
        processes: Fuzzing processes used.
    """

    answers: dict[str, int] = field(default_factory=dict)
    findings: dict[str, str] = field(default_factory=dict)
    distinct: int = 0
    slowest_s: float = 0.0
    peak_rss_mib: int = 0
    seconds: float = 0.0
    processes: int = 0

    @property
    def runs(self) -> int:
        """Inputs that were answered."""
        return sum(self.answers.values())


class Campaign:
    """Fuzzes one target.

    Args:
        target: "dicom" or "messages".
        folder: Where seeds, counts, findings and progress lie; a campaign goes on where it was.
        guided_every: One in so many processes is guided by coverage, which makes it ten times
            slower; the others go on from what it found. 0: none.
    """

    def __init__(self, target: str, folder: Path, guided_every: int = 4) -> None:
        self._guided_every = guided_every
        self._target = target
        self._folder = folder
        self._corpus = folder / "corpus"
        self._findings = folder / "findings"
        self._file = folder / "progress.json"
        for each in (self._corpus, self._findings):
            each.mkdir(parents=True, exist_ok=True)
        self.progress = Progress()
        if self._file.exists():
            self.progress = Progress(**json.loads(self._file.read_text()))

    @property
    def findings(self) -> list[Path]:
        """The inputs that were not answered as they should."""
        return sorted(self._findings.iterdir())

    def run(self, seeds: list[bytes], inputs: int, seconds: float) -> Progress:
        """Fuzz until so many different inputs were tried in all, or so much time was spent now."""
        for seed in seeds:
            (self._corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
        deadline = time.monotonic() + seconds
        while (missing := inputs - self.progress.distinct) > 0 and (
            left_s := deadline - time.monotonic()
        ) > 0:
            most = _GUIDED_BATCH if self._guided else _BATCH
            self._one_process(min(most, missing + _BATCH // 20), left_s)
            left_s = deadline - time.monotonic()
        return self.progress

    @property
    def _guided(self) -> bool:
        return bool(self._guided_every) and self.progress.processes % self._guided_every == 0

    @property
    def _number(self) -> int:
        return 1 + self.progress.processes

    def _one_process(self, runs: int, left_s: float) -> None:
        began = time.monotonic()
        counts = self._folder / "counts"
        counts.unlink(missing_ok=True)
        peak = self._folder / "peak"
        between = (sys.executable, "-I", "-S", "-c", _BETWEEN, str(peak))
        command = tied_command((*between, *self._command(counts, runs, left_s)))
        # libFuzzer ends its process without cleaning up: what it leaves lies in a folder of ours.
        with (
            TemporaryDirectory(prefix="fuzz-") as scratch,
            (self._folder / "log").open("wb") as log,
        ):
            settings = os.environ | {"TMPDIR": scratch}
            broke = subprocess.run(
                command, stdout=log, stderr=log, cwd=_ROOT, env=settings, check=False
            )
        found = sorted(self._findings.glob(f"{self._number}-*"))
        if not counts.exists() or (broke.returncode and not found):
            raise RuntimeError(f"The fuzzing process broke; see {self._folder / 'log'}.")
        rss_mib = int(peak.read_text()) // 1024
        self._add(Tally(counts), found, rss_mib, time.monotonic() - began)

    def _command(self, counts: Path, runs: int, left_s: float) -> list[str]:
        mode = "guided" if self._guided else "plain"
        options = {
            "runs": runs,
            "seed": self._number,
            "max_total_time": max(1, int(left_s)),
            "timeout": _STUCK_S,
            "report_slow_units": _STUCK_S,
            "rss_limit_mb": MEMORY_MIB,
            "max_len": _MAX_INPUT_BYTES,
            "len_control": 0,
            "mutate_depth": 1,
            "artifact_prefix": f"{self._findings}/{self._number}-",
        }
        return [
            *(sys.executable, "-m", "tests.fuzz.child", self._target, mode, str(counts)),
            *(f"-{name}={value}" for name, value in options.items()),
            str(self._corpus),
        ]

    def _add(self, tally: Tally, found: list[Path], rss_mib: int, seconds: float) -> None:
        progress = self.progress
        progress.answers = dict(Counter(progress.answers) + Counter(tally.answers))
        for path in found:
            progress.findings[path.name] = _KINDS[path.name.split("-")[1]]
        progress.distinct += tally.distinct
        progress.slowest_s = max(progress.slowest_s, tally.slowest_s)
        progress.peak_rss_mib = max(progress.peak_rss_mib, rss_mib)
        progress.seconds += seconds
        progress.processes += 1
        self._file.write_text(json.dumps(asdict(progress), indent=2))
