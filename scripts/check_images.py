"""Reads the Dockerfiles as a builder would: what they take exists, is sent and is pinned.

docker/*.Dockerfile, .dockerignore ─▶ instructions ─▶ findings

python -m scripts.check_images
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

__all__ = ("Instruction", "check", "ignored", "instructions", "main")

ROOT = Path(__file__).parent.parent
_DIGEST = re.compile(r"[^@]+@sha256:[0-9a-f]{64}")
_ARGUMENT = re.compile(r"\$\{?(\w+)\}?")
_EXEC = ("RUN", "CMD", "ENTRYPOINT")
_SECRET = re.compile(r"(?i)(passw|secret|token|credential|_key=)")


@dataclass(frozen=True)
class Instruction:
    """One instruction: its word in capitals, and the rest of its line or lines."""

    word: str
    rest: str


def instructions(text: str) -> list[Instruction]:
    """Read a Dockerfile; comments are left out, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    pairs = (line.strip().partition(" ") for line in joined)
    return [Instruction(word.upper(), rest.strip()) for word, _, rest in pairs]


def ignored(path: str, patterns: list[str]) -> bool:
    """Whether .dockerignore keeps a path from the builder: the last pattern that fits decides.

    Args:
        path: From the root, with slashes.
        patterns: Lines of .dockerignore.
    """
    parts = path.split("/")
    above = ["/".join(parts[: end + 1]) for end in range(len(parts))]
    out = False
    for pattern in patterns:
        keeps = pattern.startswith("!")
        bare = pattern.removeprefix("!").removeprefix("**/")
        anywhere = "**/" in pattern
        fits = [part for part in above if _fits(part, bare, anywhere=anywhere)]
        if fits:
            out = not keeps
    return out


def _fits(path: str, pattern: str, *, anywhere: bool) -> bool:
    if anywhere:
        return fnmatch(path.rpartition("/")[2], pattern)
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)


def check(text: str, root: Path) -> Iterator[str]:
    """Yield what is wrong with a Dockerfile.

    Args:
        text: Its content.
        root: The folder that is sent to the builder, with .dockerignore.
    """
    read = instructions(text)
    yield from _bases(read)
    yield from _copies(read, root)
    for instruction in read:
        word, rest = instruction.word, instruction.rest
        if word == "ADD":
            yield "ADD: use COPY, which fetches and unpacks nothing"
        if word in _EXEC and not _is_list(rest):
            yield f"{word} {rest}: expected a list, no shell"
        if word in ("ARG", "ENV") and _SECRET.search(rest):
            yield f"{word} {rest}: an image keeps every word of it"
        if word == "RUN" and '"install"' in rest and "-r" not in rest and "--editable" not in rest:
            yield f"RUN {rest}: packages come from a file with hashes"
    if not any(i.word == "USER" and re.fullmatch(r"[1-9]\d{4,}:[1-9]\d{4,}", i.rest) for i in read):
        yield "USER: expected a number from 10000, and its group"


def _bases(read: list[Instruction]) -> Iterator[str]:
    arguments = dict(i.rest.partition("=")[::2] for i in read if i.word == "ARG")
    stages: set[str] = {"scratch"}
    for rest in (i.rest for i in read if i.word == "FROM"):
        base, _, stage = rest.partition(" AS ")
        image = _ARGUMENT.sub(lambda found: arguments.get(found[1], ""), base)
        if image not in stages and not _DIGEST.fullmatch(image):
            yield f"FROM {image}: expected name:tag@sha256:…"
        if ":latest" in image:
            yield f"FROM {image}: says nothing about what it is"
        stages.add(stage)


def _copies(read: list[Instruction], root: Path) -> Iterator[str]:
    patterns = [
        line
        for line in (root / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    for rest in (i.rest for i in read if i.word == "COPY"):
        words = rest.split()
        if words[0].startswith("--from="):
            continue
        for source in words[:-1]:
            if source == ".":
                yield "COPY .: name what the image is made of"
            elif not (root / source).exists():
                yield f"COPY {source}: there is no such file"
            elif ignored(source, patterns):
                yield f"COPY {source}: .dockerignore keeps it from the builder"


def _is_list(rest: str) -> bool:
    try:
        return isinstance(json.loads(rest), list)
    except ValueError:
        return False


def main() -> int:
    """Run the program; 0, or 1 when something is wrong."""
    wrong = []
    for path in sorted((ROOT / "docker").glob("*.Dockerfile")):
        wrong += [f"{path.name}: {finding}" for finding in check(path.read_text(), ROOT)]
    print("\n".join(wrong) or "The Dockerfiles are in order.")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
