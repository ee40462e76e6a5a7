"""No data key and no stream repeats a random value, not even in processes forked from one another.

    python -m tests.proof.fresh_keys

A process that is copied whole, as a snapshot of a virtual machine does, is not tested here.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

from tink import proto_keyset_format, secret_key_access
from tink.proto import aes_gcm_hkdf_streaming_pb2, tink_pb2

from client.crypto.digest import Digest
from client.crypto.envelope import DataKey
from tests.proof.records import Check, Proof, write_proof

__all__ = ("data_key_bytes", "main", "prove", "prove_apart")

_PROCESSES = 4
_STREAM_HEADER = slice(1, 40)  # after the length byte: 32 bytes of salt, 7 of nonce prefix


def data_key_bytes(keyset: bytes) -> bytes:
    """Return the secret in a serialised data keyset."""
    key = tink_pb2.Keyset.FromString(keyset).key[0]
    value = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey.FromString(key.key_data.value)
    return bytes(value.key_value)


def _made(count: int) -> tuple[list[bytes], list[bytes]]:
    """Seal so many one-byte studies; return their data keys and the heads of their streams."""
    keys, heads, digest = [], [], Digest.of([b"x"])
    for _ in range(count):
        data_key = DataKey.new()
        raw = proto_keyset_format.serialize(data_key._handle, secret_key_access.TOKEN)
        keys.append(data_key_bytes(raw))
        heads.append(next(data_key.seal([b"x"], b"", digest))[_STREAM_HEADER])
    return keys, heads


def prove(count: int = 100_000) -> Proof:
    """Seal so many studies, a part of them in forked processes, and look for repetitions."""
    began = time.monotonic()
    share = count // (_PROCESSES + 1)
    _made(10)  # the generator has a state before it is forked
    with multiprocessing.get_context("fork").Pool(_PROCESSES) as pool:
        waiting = pool.map_async(_made, [share] * _PROCESSES, chunksize=1)
        parts = [_made(count - share * _PROCESSES), *waiting.get()]
    keys = [key for part in parts for key in part[0]]
    heads = [head for part in parts for head in part[1]]
    check = Check(
        f"{len(keys)} data keys and stream heads, made in {_PROCESSES} forked processes and their "
        "parent, are all different",
        "0 repeated",
        f"{2 * len(keys) - len(set(keys)) - len(set(heads))} repeated",
        len(set(keys)) == len(set(heads)) == len(keys) == count,
    )
    figures = {"sealed": len(keys), "seconds": round(time.monotonic() - began, 1)}
    title = "Fresh keys and nonces: nothing random is used twice"
    return Proof("fresh-keys", title, "python -m tests.proof.fresh_keys", (check,), figures)


def main() -> int:
    """Run it and write docs/proof/fresh-keys.json; with a number, only try so many."""
    if len(sys.argv) > 1:
        return 0 if prove(int(sys.argv[1])).held else 1
    proof = prove()
    write_proof(proof)
    sys.stdout.write(f"{proof.checks[0].seen}; {proof.figures['seconds']} s\n")
    return 0 if proof.held else 1


def prove_apart(count: int) -> int:
    """Run it in a process of its own, since forking one with threads is not safe."""
    argv = [sys.executable, "-m", "tests.proof.fresh_keys", str(count)]
    return subprocess.run(argv, check=False, cwd=Path(__file__).parents[2]).returncode


if __name__ == "__main__":
    sys.exit(main())
