"""``python -m client.worker``: the worker's process.

Children of a process that was started as a package's ``__main__`` do not import that module again,
which would cost each isolated reader the imports of the whole worker.
"""

from __future__ import annotations

from client.worker.process import main

__all__ = ()

if __name__ == "__main__":
    main()
