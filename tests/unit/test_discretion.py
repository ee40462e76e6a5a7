"""A server process tells what broke and where, and never with which values."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from client.discretion import path_of, place_of

pytestmark = pytest.mark.unit

CANARY = "Canary^Quoted"

_START = f"""
import asyncio, gc, logging, resource, sys, threading, warnings
from client.discretion import be_discreet
be_discreet()
canary = {CANARY!r}
def fail():
    raise ValueError(canary)
"""

_LEAKS = {
    "an uncaught error": ("fail()", "ended by ValueError (<string>:"),
    "an error with a cause": (
        "try:\n    fail()\nexcept ValueError as e:\n    raise KeyError(canary) from e",
        "caused by ValueError (<string>:",
    ),
    "an error in a thread": (
        "t = threading.Thread(target=fail)\nt.start()\nt.join()",
        "a thread was ended by ValueError",
    ),
    "an error in a task that nobody awaits": (
        "async def main():\n    async def task(): fail()\n"
        "    t = asyncio.create_task(task())\n    await asyncio.sleep(0)\n    del t\n"
        "    gc.collect()\nasyncio.run(main())",
        "asyncio at base_events.py:",
    ),
    "an error in a callback of the loop": (
        "async def main():\n    asyncio.get_running_loop().call_soon(lambda c: fail(), canary)\n"
        "    await asyncio.sleep(0.01)\nasyncio.run(main())",
        "ValueError (events.py:",
    ),
    "an error in a finaliser": (
        "class Thing:\n    def __del__(self): fail()\nThing()\ngc.collect()",
        "unraisable: ValueError",
    ),
    "a library's record": (
        "logging.getLogger('pydicom').warning('Invalid value %s', canary)",
        "WARNING pydicom at <string>:",
    ),
    "a library's record with a traceback": (
        "try:\n    fail()\nexcept ValueError:\n    logging.getLogger('grpc').exception(canary)",
        "ERROR grpc at <string>:",
    ),
    "our own record with a traceback": (
        "try:\n    fail()\n"
        "except ValueError:\n    logging.getLogger('client.x').exception('x broke')",
        "ERROR x broke: ValueError (<string>:",
    ),
    "a warning": ("warnings.warn(f'The value {canary!r} is invalid')", "WARNING py.warnings at"),
}


@pytest.mark.parametrize("leak", _LEAKS)
def test_what_breaks_is_told_without_its_text(leak: str) -> None:
    program, told = _LEAKS[leak]
    done = subprocess.run(
        [sys.executable, "-c", _START + program], capture_output=True, text=True, check=False
    )
    assert told in done.stderr
    assert "Canary" not in done.stdout + done.stderr
    assert "Quoted" not in done.stdout + done.stderr


def test_our_own_records_are_told_as_they_are() -> None:
    program = _START + "logging.getLogger('client.x').info('job=%s done', 7)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr.endswith(" INFO job=7 done\n")


def test_our_own_errors_say_what_to_do() -> None:
    program = (
        _START + "from client.errors import ConfigurationError\n"
        "try:\n    fail()\nexcept ValueError as e:\n"
        "    raise ConfigurationError('Set X to a number.') from e"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "Set X to a number. caused by ValueError (" in done.stderr
    assert "Canary" not in done.stderr


def test_what_libraries_merely_mention_is_left_out() -> None:
    program = _START + "logging.getLogger('alembic').info('context %s', canary)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stderr == b""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own account of a process")
def test_a_crash_leaves_no_core_and_children_inherit_that(tmp_path: Path) -> None:
    ask = (
        "import resource; hard = resource.getrlimit(resource.RLIMIT_CORE)[1]; "
        "assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)"
    )
    program = (
        "import resource, subprocess, sys, os, ctypes\n"
        "from client.discretion import forbid_core_dumps\n"
        "forbid_core_dumps()\n"
        "assert ctypes.CDLL(None).prctl(3) == 0\n"  # PR_GET_DUMPABLE
        f"subprocess.run([sys.executable, '-c', {ask!r}], check=True)\n"
        "os.abort()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        preexec_fn=_allow_cores,
    )
    assert done.returncode == -6, done.stderr
    assert list(tmp_path.iterdir()) == []


def _allow_cores() -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


def test_a_place_names_types_and_lines_only() -> None:
    def fail() -> None:
        try:
            int(CANARY)
        except ValueError as error:
            raise KeyError(CANARY) from error

    with pytest.raises(KeyError) as caught:
        fail()
    place, path = place_of(caught.value), path_of(caught.value)
    assert place.startswith("KeyError at test_discretion.py:")
    assert path.count("test_discretion.py") == 3
    assert " caused by ValueError (" in path
    assert CANARY not in place + path


def test_an_error_that_was_never_raised_has_no_place() -> None:
    assert place_of(ValueError(CANARY)) == "ValueError"
    assert path_of(ValueError(CANARY)) == "ValueError (nowhere)"
