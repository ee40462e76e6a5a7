"""OpenVINO is loaded once and never unloaded, as that would take a signal stack with it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
PROGRAM = """if True:
    import gc, os, signal, threading
    import numpy as np
    from openvino import Model, opset13 as ops
    from preprocess.serving.runtime import openvino_core

    x = ops.parameter([1, 4], np.float32)
    held = [openvino_core().compile_model(Model([ops.relu(x)], [x]), "CPU")]
    letting_go = threading.Thread(target=held.clear)
    letting_go.start()
    letting_go.join()
    gc.collect()
    signal.signal(signal.SIGUSR1, lambda *_: print("alive"))
    os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_signal_after_the_last_model_went_in_another_thread_is_survived() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PROGRAM],
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout.decode().strip()) == (0, "alive")


def test_nobody_loads_it_a_second_time() -> None:
    """Peers run in environments of their own, without our code."""
    makers = {
        str(path.relative_to(ROOT))
        for folder in ("client", "preprocess", "export", "loadtest", "training", "tests")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"\bCore\(\)", path.read_text(encoding="utf-8"))
    }
    assert makers == {
        "preprocess/serving/runtime.py",
        "loadtest/peers/work.py",
    }
