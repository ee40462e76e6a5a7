"""A file that is parsed once and again after it was replaced, so that nothing needs a restart."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from client.errors import ConfigurationError, Transient

__all__ = ("FreshFile",)

_LOG = logging.getLogger(__name__)

T = TypeVar("T")
_Stamp = tuple[int, int, int]


class FreshFile(Generic[T]):
    """What a small file says, as it is on disk now, give or take ``look_s``.

    Args:
        path: The file; it is replaced as a whole, never edited in place.
        parse: Makes the value; raises ConfigurationError when the file is not right.
        absent: The value while there has never been a file.
        look_s: Seconds between two looks at the disk.
    """

    def __init__(
        self, path: Path, parse: Callable[[bytes], T], absent: T, look_s: float = 1.0
    ) -> None:
        self._path = path
        self._parse = parse
        self._value = absent
        self._look_s = look_s
        self._stamp: _Stamp | None = None
        self._looked_at = -look_s
        self._error: ConfigurationError | None = None
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Read the file for the first time.

        Raises:
            ConfigurationError: It is damaged or may not be read.
        """
        await self._look()
        if self._error is not None:
            raise self._error

    async def value(self, *, now: bool = False) -> T:
        """Return what the file says.

        Args:
            now: Look at the disk even if the last look was a moment ago.

        Raises:
            Transient: It was damaged or taken away while we ran; what it said before may be wrong
                by now, so nobody is answered until it is mended.
        """
        if now:
            self._looked_at = -self._look_s
        if time.monotonic() - self._looked_at >= self._look_s:
            await self._look()
        if self._error is not None:
            raise Transient("The gateway cannot check callers now; its log says why.")
        return self._value

    async def _look(self) -> None:
        async with self._lock:
            if time.monotonic() - self._looked_at < self._look_s:
                return
            try:
                await asyncio.to_thread(self._read)
            except ConfigurationError as error:
                if str(error) != str(self._error):
                    _LOG.error("%s", error)
                self._error = error
            self._looked_at = time.monotonic()

    def _read(self) -> None:
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp == self._stamp and self._error is None:
                return
            content = self._path.read_bytes()
        except FileNotFoundError:
            if self._stamp is None:
                return
            raise ConfigurationError(f"{self._path} was here and is gone: put it back.") from None
        except OSError as error:
            raise ConfigurationError(f"Cannot read {self._path}: {error.strerror}.") from error
        self._value, self._stamp, self._error = self._parse(content), stamp, None
