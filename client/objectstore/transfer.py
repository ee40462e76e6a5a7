"""What every transfer to or from an object store needs: a measured stream, errors by our names.

chunks ──▶ MeasuredStream (length, SHA-256) ──▶ store
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import AsyncIterable, Iterator

from obstore import exceptions as obstore_errors

from client.errors import ConfigurationError, Conflict, NotFound, Transient

__all__ = ("MeasuredStream", "translated")


class MeasuredStream:
    """Counts and hashes a stream on its way.

    Attributes:
        length: Bytes that have passed.
        ended: Whether the source has no more.
    """

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = aiter(chunks)
        self._hash = hashlib.sha256()
        self.length = 0
        self.ended = False

    @property
    def sha256(self) -> str:
        """Hash of what has passed, hexadecimal."""
        return self._hash.hexdigest()

    def __aiter__(self) -> MeasuredStream:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self.ended = True
            raise
        self._hash.update(chunk)
        self.length += len(chunk)
        return chunk

    async def take(self, at_least: int) -> deque[bytes]:
        """Return the next pieces, of so many bytes together or more, unless the source ends."""
        taken: deque[bytes] = deque()
        goal = self.length + at_least
        while self.length < goal:
            try:
                taken.append(await anext(self))
            except StopAsyncIteration:
                break
        return taken


@contextlib.contextmanager
def translated(key: str) -> Iterator[None]:
    """Turn an object store's errors into ours, by type.

    Raises:
        NotFound: There is no object under the key.
        Conflict: There is one already.
        ConfigurationError: The store refuses us: credentials, rights, or what was asked.
        Transient: Everything else: away, full, slow.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"No object {key}.") from error
    except obstore_errors.AlreadyExistsError as error:
        raise Conflict(f"Object {key} exists already; keys are used once.") from error
    except (
        obstore_errors.PermissionDeniedError,
        obstore_errors.UnauthenticatedError,
        obstore_errors.NotSupportedError,
        obstore_errors.InvalidPathError,
        PermissionError,
    ) as error:
        raise ConfigurationError(f"The object store refuses access to {key}.") from error
    except (obstore_errors.BaseError, OSError) as error:
        raise Transient(
            f"The object store failed on {key} ({type(error).__name__}); try again."
        ) from error
