"""``python -m export``: the same as the console command ``hounsfield-export``."""

from __future__ import annotations

from export.cli import main

__all__ = ()

if __name__ == "__main__":
    main()
