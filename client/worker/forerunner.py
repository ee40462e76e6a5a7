"""What every reader is a copy of: importing this module does once what each would repeat.

    fork server ──imports──▶ parser, decoders ──fork──▶ reader

The one module of ours whose import does work, since importing is all that the fork server offers;
nothing but ``preload`` names it. The less it holds, the cheaper a fork is.
"""

from __future__ import annotations

import gc

import numpy.ma

import client.worker.isolation
import client.worker.reading

__all__ = ("LIBRARIES",)

LIBRARIES = (numpy.ma, client.worker.isolation, client.worker.reading)
"""What serving a call and reading need, also what they import only when it is used."""

# Else the first collection in each child would copy every page of the above.
gc.freeze()
