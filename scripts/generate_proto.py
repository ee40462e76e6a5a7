"""Generates the protocol's Python code from its definition, or checks that it is up to date."""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

__all__ = ("generate", "main")

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("client/proto")
OUTPUTS = {
    "hounsfield/ingest/v1/ingest_pb2.py": "ingest_pb2.py",
    "hounsfield/ingest/v1/ingest_pb2.pyi": "ingest_pb2.pyi",
    "hounsfield/ingest/v1/ingest_pb2_grpc.py": "ingest_pb2_grpc.py",
    "buf/validate/validate_pb2.py": "buf/validate/validate_pb2.py",
    "buf/validate/validate_pb2.pyi": "buf/validate/validate_pb2.pyi",
}
# protoc names Python modules after the files of the protocol; ours lie under client.proto, so that
# no top-level module can collide with an installed one.
IMPORTS = {
    "from buf.validate import": "from client.proto.buf.validate import",
    "from hounsfield.ingest.v1 import": "from client.proto import",
}


def generate() -> dict[Path, str]:
    """Return the generated files: path below the repository's root -> content.

    Raises:
        RuntimeError: protoc refused a definition; it has printed why.
    """
    well_known = resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as directory:
        _run_protoc(directory, str(well_known), "buf/validate/validate.proto")
        _run_protoc(
            directory,
            str(well_known),
            "hounsfield/ingest/v1/ingest.proto",
            f"--grpc_python_out={directory}",
        )
        return {
            PACKAGE / target: _with_our_imports((Path(directory) / source).read_text())
            for source, target in OUTPUTS.items()
        }


def _run_protoc(out: str, well_known: str, proto: str, *extra: str) -> None:
    arguments = [
        "protoc",
        f"-Ihounsfield/ingest/v1={ROOT / PACKAGE}",
        f"-I{ROOT / PACKAGE}",
        f"-I{well_known}",
        f"--python_out={out}",
        f"--pyi_out={out}",
        *extra,
        proto,
    ]
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc refused {proto}")


def _with_our_imports(text: str) -> str:
    for theirs, ours in IMPORTS.items():
        text = text.replace(theirs, ours)
    return text


def main() -> int:
    """Write the files, or with ``--check`` return 1 when one differs from what would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if stale")
    check = parser.parse_args().check
    stale = {
        path: text
        for path, text in generate().items()
        if not (ROOT / path).exists() or (ROOT / path).read_text() != text
    }
    for path, text in stale.items():
        if check:
            sys.stderr.write(f"{path} is out of date: run `make proto`\n")
        else:
            (ROOT / path).write_text(text)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
