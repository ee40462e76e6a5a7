"""Files that would grow a thousand times, and what reading each takes in memory."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import zipfile
import zlib
from functools import cache
from pathlib import Path

from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.dicom_factory import Recipe, classic_files, numbered_volume

__all__ = ("bombs", "growth")

_INFLATED = 128 << 20
_ROOT = Path(__file__).parents[2]
_MEASURE = """
import json, sys, threading, psutil
from client.dicom.reader import read_study
from client.errors import Rejected
from client.limits import ReadLimits
read_study([("warm", open(sys.argv[1], "rb").read())], ReadLimits())
files = [(path, open(path, "rb").read()) for path in sys.argv[2:]]
process, done, peak = psutil.Process(), threading.Event(), [0]
def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], process.memory_info().rss)
watcher = threading.Thread(target=watch)
before = process.memory_info().rss
watcher.start()
try:
    content = read_study(files, ReadLimits())
    codes = sorted({str(refusal.code) for refusal in content.refusals})
    read = len(content.series)
except Rejected as refusal:
    codes, read = [str(refusal.code)], 0
done.set()
watcher.join()
grown = max(peak[0], process.memory_info().rss) - before
print(json.dumps({"codes": codes, "read": read, "grown_bytes": grown}))
"""


@cache
def bombs() -> dict[str, list[bytes]]:
    """Studies by name; each file but the last kind's inflates 1,000 times and more."""
    recipe = Recipe(numbered_volume(1, 4, 5), syntax=DeflatedExplicitVRLittleEndian)
    deflated = classic_files(recipe)[0][1]
    meta_end = 144 + int.from_bytes(deflated[140:144], "little")
    plain = zlib.decompress(deflated[meta_end:], -15)
    zeros = bytes(_INFLATED)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("1.dcm", zeros)
    return {
        "deflated transfer syntax": [deflated[:meta_end] + _deflate(plain + _element(zeros))],
        "100 deflated files": [deflated[:meta_end] + _deflate(plain + _element(bytes(1 << 24)))]
        * 100,
        "gzip": [gzip.compress(zeros)],
        "gzip behind a preamble": [bytes(128) + b"DICM" + gzip.compress(zeros)],
        "zip": [archive.getvalue()],
    }


def growth(study: list[bytes], folder: Path) -> dict[str, object]:
    """Read a study in a process of its own: codes, series read and growth of its memory."""
    healthy = folder / "healthy"
    healthy.write_bytes(classic_files(Recipe(numbered_volume(1, 4, 5)))[0][1])
    paths = []
    for number, content in enumerate(study):
        paths.append(folder / f"{number}.bin")
        paths[-1].write_bytes(content)
    command = [sys.executable, "-c", _MEASURE, str(healthy), *map(str, paths)]
    answer = subprocess.run(command, cwd=_ROOT, capture_output=True, check=True, timeout=120)
    found: dict[str, object] = json.loads(answer.stdout)
    return found


def _deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(content) + packer.flush()


def _element(content: bytes) -> bytes:
    """An element at the end: Data Set Trailing Padding (PS3.3 C.12.1)."""
    return b"\xfc\xff\xfc\xffOB\0\0" + len(content).to_bytes(4, "little") + content
