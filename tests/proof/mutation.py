"""Mutation tests of the crypto and queue modules: are the tests able to fail?

modules ──mutmut, a folder per package──▶ mutants ──the package's tests──▶ docs/proof/mutation.json

Only modules that changed since they were last tried run again; a stopped run goes on where it was.
The sentences of error messages are not mutated: tests hold them to what they say, not to the word.

    python -m tests.proof.mutation                                  every changed module
    python -m tests.proof.mutation --module client/crypto/envelope.py
    python -m tests.proof.mutation --survivors                      survivors and time-outs again
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.proof.mutation_equivalents import EQUIVALENT
from tests.proof.records import FOLDER, Check, Proof, write_proof

__all__ = ("ModuleRecord", "main", "modules", "proof_of")

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "mutation"
PACKAGES = ("client/crypto", "client/jobqueue")
MIN_KILLED = 0.85
MAX_EQUIVALENT = 0.05
_TESTS: Mapping[str, tuple[str, ...]] = {
    "client/crypto": (
        "tests/unit/test_crypto_*.py",
        "tests/unit/test_pseudonyms.py",
        "tests/contract/test_cloud_kms.py",
    ),
    "client/jobqueue": ("tests/contract/test_queue_*.py",),
}
_SETTINGS = r"""
[tool.mutmut]
source_paths = ["client"]
only_mutate = [{modules}]
do_not_mutate_patterns = ['^\s*f?"[^"]*[a-z]+ [^"]*[a-z]+ [^"]*"[,)]*$']
also_copy = ["preprocess", "docs"]
pytest_add_cli_args_test_selection = [{tests}]
pytest_add_cli_args = [
    "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:anyio",
    "-p", "no:unraisableexception", "-p", "no:threadexception",
]
process_isolation = "forkserver"
use_git_change_detection = false
timeout_constant = 8.0
timeout_multiplier = 2.0
"""
_QUICK_TESTS_FIRST = """
import json
from pathlib import Path

STATS = Path("mutmut-stats.json")


def pytest_collection_modifyitems(items):
    if STATS.exists():
        seconds = json.loads(STATS.read_text())["duration_by_test"]
        items.sort(key=lambda item: seconds.get(item.nodeid, 0))
"""
_TIMED_OUT = (-24, 24, 36, 152, 255)
_SURVIVED = (0, 5, 33)
_DOUBTFUL = (*_SURVIVED, *_TIMED_OUT)
"""Tried again with --survivors: a busy machine makes good code time out, too."""
_DIFFS = """
import json, sys
from mutmut.mutation.diff_apply import get_diff_for_mutant
json.dump([get_diff_for_mutant(name) for name in sys.argv[1:]], sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class ModuleRecord:
    """What became of one module's mutants.

    Attributes:
        sha256: Of the module that was tried.
        mutants: How many were made.
        killed: How many made a test fail.
        timed_out: How many made the tests hang: found, too.
        survived: The changes that no test noticed, equivalent ones aside.
        equivalent: Changes after which the module does the same, and why.
    """

    sha256: str
    mutants: int
    killed: int
    timed_out: int
    survived: tuple[str, ...] = ()
    equivalent: Mapping[str, str] = field(default_factory=dict)


def modules() -> tuple[str, ...]:
    """Return the path of every module of both folders."""
    return tuple(
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in sorted((ROOT / package).glob("*.py"))
        if path.name != "__init__.py"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Try what changed, write the proof; 1 when too many mutants of all modules live."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--module", action="append", choices=modules(), help="repeatable")
    parser.add_argument("--survivors", action="store_true")
    parser.add_argument("--out", type=Path, default=FOLDER)
    chosen = parser.parse_args(arguments)
    records = _load(chosen.out / "mutation.json")
    due = [
        module
        for module in chosen.module or modules()
        if chosen.survivors or module not in records or records[module].sha256 != _sha256(module)
    ]
    for package in PACKAGES:
        mine = tuple(module for module in due if module.rpartition("/")[0] == package)
        for module, record in _try(package, mine, again=chosen.survivors).items():
            records[module] = record
            sys.stdout.write(f"{module}: {_line([record])}\n")
        write_proof(proof_of(records), chosen.out)
    return 0 if records and proof_of(records).held else 1


def proof_of(records: Mapping[str, ModuleRecord]) -> Proof:
    """Return the proof that the records make."""
    found = [records[name] for name in modules() if name in records]
    rated = sum(record.mutants - len(record.equivalent) for record in found)
    killed = sum(record.killed + record.timed_out for record in found)
    same = sum(len(record.equivalent) for record in found)
    made = sum(record.mutants for record in found)
    return Proof(
        name="mutation",
        title="Mutants of the crypto and queue modules are killed by the modules' own tests",
        command="python -m tests.proof.mutation",
        checks=(
            Check(
                "Tests notice changes of the code",
                f"at least {MIN_KILLED:.0%} of mutants killed",
                _line(found),
                rated > 0 and killed >= MIN_KILLED * rated,
            ),
            Check(
                "Few mutants are called equivalent, each by hand and with a reason",
                f"at most {MAX_EQUIVALENT:.0%}",
                f"{same} of {made}",
                same <= MAX_EQUIVALENT * made,
            ),
            Check(
                "Every module of both folders was tried",
                f"{len(modules())} modules",
                f"{len(found)} modules",
                len(found) == len(modules()),
            ),
        ),
        figures={
            "tool": "mutmut 3.8",
            "modules": {name: asdict(records[name]) for name in modules() if name in records},
        },
    )


def _line(records: Iterable[ModuleRecord]) -> str:
    found = list(records)
    rated = sum(record.mutants - len(record.equivalent) for record in found)
    killed = sum(record.killed + record.timed_out for record in found)
    share = killed / rated if rated else 1.0
    return f"{killed} of {rated} killed ({share:.1%})"


def _try(package: str, due: Sequence[str], *, again: bool) -> dict[str, ModuleRecord]:
    records = {
        module: ModuleRecord(_sha256(module), mutants=0, killed=0, timed_out=0)
        for module in due
        if not _has_code(module)
    }
    rated = [module for module in due if module not in records]
    if not rated:
        return records
    digests = {module: _sha256(module) for module in rated}
    folder = _prepare(package, rated)
    if again:  # which test reaches which function is to be learnt anew
        (folder / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
    _mutmut(folder, "run", "--max-children", "2")
    doubtful = [name for module in rated for name in _named(folder, module, _DOUBTFUL)]
    if again and doubtful:
        _mutmut(folder, "run", "--max-children", "2", *doubtful)
    return records | {module: _record(folder, module, digests[module]) for module in rated}


def _record(folder: Path, module: str, digest: str) -> ModuleRecord:
    codes = _codes(folder, module)
    if None in codes.values():
        raise SystemExit(f"{module}: not all mutants were tried; run it again, it goes on.")
    timed_out = sum(code in _TIMED_OUT for code in codes.values())
    alive = _named(folder, module, _SURVIVED)
    diffs = json.loads(_python(folder, "-c", _DIFFS, *alive))
    changes = [_change(diff) for diff in diffs]
    known = EQUIVALENT.get(module, {})
    return ModuleRecord(
        sha256=digest,
        mutants=len(codes),
        killed=len(codes) - timed_out - len(changes),
        timed_out=timed_out,
        survived=tuple(change for change in changes if change not in known),
        equivalent={change: known[change] for change in changes if change in known},
    )


def _prepare(package: str, due: Sequence[str]) -> Path:
    """Lay out what the package's tests need; mutmut's own state in the folder is kept."""
    folder = WORK / package.rpartition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("client", "tests"):
        shutil.rmtree(folder / name, ignore_errors=True)
    hidden = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "client", folder / "client", ignore=hidden)
    tests = sorted(path for pattern in _TESTS[package] for path in ROOT.glob(pattern))
    for path in (*ROOT.glob("tests/*.py"), *ROOT.glob("tests/proof/*.py"), *tests):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    # Instead of ours, which starts servers that these tests do not need:
    (folder / "tests" / "conftest.py").write_text(_QUICK_TESTS_FIRST)
    for name in ("preprocess", "docs"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    settings = _SETTINGS.format(
        modules=_listed(due), tests=_listed(path.relative_to(ROOT).as_posix() for path in tests)
    )
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + settings)
    return folder


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _mutmut(folder: Path, *arguments: str) -> None:
    _python(folder, "-m", "mutmut", *arguments)


def _python(folder: Path, *arguments: str) -> str:
    """Run Python in a work folder, politely, and return what it printed."""
    done = subprocess.run(
        ["nice", "-n", "10", sys.executable, *arguments],
        cwd=folder,
        env=dict(os.environ) | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    (folder / "last.log").write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        raise SystemExit(f"python {arguments[1]} failed; see {folder / 'last.log'}")
    return done.stdout


def _has_code(module: str) -> bool:
    """Whether a module has anything to mutate: a function that does more than declare itself."""
    functions = (ast.AsyncFunctionDef, ast.FunctionDef)
    found = [
        node
        for node in ast.walk(ast.parse((ROOT / module).read_text()))
        if isinstance(node, functions)
    ]
    return any(
        not isinstance(function.body[-1], ast.Expr) or len(function.body) > 2 for function in found
    )


def _codes(folder: Path, module: str) -> dict[str, int | None]:
    path = folder / "mutants" / f"{module}.meta"
    codes: dict[str, int | None] = json.loads(path.read_text())["exit_code_by_key"]
    return codes


def _named(folder: Path, module: str, codes: Sequence[int]) -> list[str]:
    return [name for name, code in _codes(folder, module).items() if code in codes]


def _change(diff: str) -> str:
    """The changed lines of a mutant's diff, on one line."""
    lines = [line for line in diff.splitlines() if line[:3] not in {"---", "+++"}]
    before = " ".join(line[1:].strip() for line in lines if line.startswith("-"))
    after = " ".join(line[1:].strip() for line in lines if line.startswith("+"))
    return f"{before} ▶ {after}"


def _sha256(module: str) -> str:
    return hashlib.sha256((ROOT / module).read_bytes()).hexdigest()


def _load(path: Path) -> dict[str, ModuleRecord]:
    if not path.exists():
        return {}
    found: dict[str, dict[str, Any]] = json.loads(path.read_text())["figures"]["modules"]
    return {
        name: ModuleRecord(**{**record, "survived": tuple(record["survived"])})
        for name, record in found.items()
    }


if __name__ == "__main__":
    sys.exit(main())
