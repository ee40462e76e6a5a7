"""Check every overlay and component of k8s/.

python -m scripts.manifests [--k8s FOLDER] [--checkov PROGRAM]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from scripts.manifests.report import print_outcome, validate

__all__ = ()

_ROOT = Path(__file__).parent.parent.parent


def main() -> int:
    """Check, print, and return 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--k8s", type=Path, default=_ROOT / "k8s", help="folder of the manifests")
    parser.add_argument("--checkov", type=Path, help="policy scanner; without it no policies")
    arguments = parser.parse_args()
    outcome = validate(arguments.k8s.resolve(), arguments.checkov)
    print_outcome(outcome, Console(width=160))
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main())
