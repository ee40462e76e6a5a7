"""The tamper set: everything sealed is damaged and exchanged in every way; nothing may open.

python -m tests.proof.tamper
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from client.crypto.binding import study_binding
from client.crypto.digest import Digest
from client.crypto.envelope import CHUNK_BYTES, DataKey, ciphertext_length
from client.crypto.keyring import Keyring
from client.crypto.studies import (
    Rewrapped,
    SealedStudy,
    open_study,
    rewrap_study,
    seal_study,
)
from client.errors import NotFound, Rejected
from client.jobs import Job
from client.vault.headers import open_result_header, open_rewrapped, open_study_header
from tests.gateways import TENANT, GatewayUnderTest, running_gateway
from tests.proof.records import Check, Proof, write_proof
from tests.proof.tamper_bench import MAX_BYTES, TamperBench, stream
from tests.proof.tampering import (
    SEGMENT,
    Case,
    Envelope,
    ciphertext_cases,
    flipped,
    header_cases,
    is_accepted,
)

__all__ = ("main", "prove")

_SHORT, _LONG = 3_000, 3 * SEGMENT + 5_000


class Tally:
    """Counts cases by kind, and those that were accepted."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self.unbound = 0

    def add(self, kind: str, accepted: bool | None) -> None:
        """Count a case; None is one that changed nothing that matters."""
        if accepted is None:
            self.unbound += 1
            return
        self.tried[kind] += 1
        self.accepted[kind] += accepted


async def prove(flips: int = 2_000, step: int = 1) -> Proof:
    """Try everything.

    Args:
        flips: Bits of ciphertext to flip at random, for a study and for a result.
        step: Every so many bits of headers and wrapped keys; 1 for all.
    """
    began, tally = time.monotonic(), Tally()
    with tempfile.TemporaryDirectory(prefix="hounsfield-tamper-") as name:
        bench = TamperBench(Path(name, "keys"))
        for what, make in (("study", bench.study_envelope), ("result", bench.result_envelope)):
            short, long = make(_SHORT), make(_LONG)
            await _try_all(tally, what, short, header_cases(short, step))
            await _try_all(tally, what, long, ciphertext_cases(long, flips))
        await _try_rewrapped(tally, bench, step)
        async with running_gateway(Path(name, "g")) as site:
            await _try_gateway(tally, site)
            await _try_ledger(tally, site, step)
    tried, accepted = tally.tried.total(), tally.accepted.total()
    check = Check(
        "Nothing that was damaged, cut off or exchanged opens",
        "0 accepted",
        f"{accepted} of {tried} accepted",
        accepted == 0,
    )
    figures = {
        "tried": dict(sorted(tally.tried.items())),
        "accepted": {kind: count for kind, count in tally.accepted.items() if count},
        "flips of what is not bound (priority and the like)": tally.unbound,
        "seconds": round(time.monotonic() - began, 1),
    }
    title = "Sealed studies, results and headers open untouched or not at all"
    return Proof("tamper", title, "python -m tests.proof.tamper", (check,), figures)


async def _try_all(tally: Tally, what: str, envelope: Envelope, cases: Iterable[Case]) -> None:
    await envelope.open(envelope.header, envelope.ciphertext)
    for case in cases:
        tally.add(f"{what}: {case.kind}", await is_accepted(envelope, case))


async def _try_rewrapped(tally: Tally, bench: TamperBench, step: int) -> None:
    """A data key that a rotation wrapped anew: flipped, of another study, under another id."""
    study, other = bench.study(_SHORT), bench.study(_SHORT)
    ciphertext = b"".join(study.chunks())
    good = rewrap_study(study.header, bench.worker, bench.second_key)
    wrong = [
        replace(good, wrapped_dek=flipped(good.wrapped_dek, bit))
        for bit in range(0, len(good.wrapped_dek) * 8, step)
    ]
    wrong += [
        rewrap_study(other.header, bench.worker, bench.second_key),
        replace(good, key_id=bench.first_key.key_id),
        Rewrapped(bench.first_key.key_id, study.header.wrapped_dek),
    ]

    async def open_(rewrapped: Rewrapped) -> object:
        chunks = stream(ciphertext)
        return await open_study(
            study.header, chunks, bench.worker, max_bytes=MAX_BYTES, rewrapped=rewrapped
        )

    await open_(good)
    for rewrapped in wrong:
        tally.add("study: rewrapped key", not await _refused(open_(rewrapped)))


async def _refused(attempt: Any) -> bool:
    try:
        await attempt
    except (Rejected, NotFound):
        return True
    return False


async def _try_gateway(tally: Tally, site: GatewayUnderTest) -> None:
    """Uploads that end early, at every edge; and streams that were finished early, as Tink does."""
    recipient = Keyring(site.keys.worker_keys).newest()
    own = Keyring(site.keys.result_keys(TENANT)).newest()
    plaintext = [bytes(_LONG)]

    def study() -> SealedStudy:
        digest = Digest.of(plaintext)
        return seal_study(
            lambda: plaintext,
            digest,
            tenant=TENANT,
            upload_id=str(uuid.uuid4()),
            recipient=recipient,
            result_key=own,
        )

    whole = study()
    ciphertext = b"".join(whole.chunks())
    async with site.sender() as client:
        edges = [0, 40, *range(SEGMENT, len(ciphertext), SEGMENT), len(ciphertext)]
        for cut in {e + o for e in edges for o in (-1, 0, 1)} - {-1, len(ciphertext)}:
            sent = (ciphertext + b"\0")[:cut]
            attempt = client.send(SealedStudy(study().header, partial(_cut, sent)))
            tally.add("gateway: aborted upload", not await _refused(attempt))
        cancelled = asyncio.create_task(client.send(SealedStudy(whole.header, _stalling)))
        await asyncio.sleep(0.5)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        tally.add("gateway: cancelled upload", bool(await client.list_jobs()))
        finished = _finished_early(study().header, site)
        await client.send(finished)
        tally.add("worker: stream finished early", not await _refused(site.work_once({})))


def _cut(content: bytes) -> Iterator[bytes]:
    return (content[i : i + CHUNK_BYTES] for i in range(0, len(content), CHUNK_BYTES))


def _stalling() -> Iterator[bytes]:
    yield bytes(CHUNK_BYTES)
    time.sleep(2)


def _finished_early(header: Any, site: GatewayUnderTest) -> SealedStudy:
    """Return 2 of 3 MiB as a whole and valid stream, under a header whose lengths agree."""
    shorter = [bytes(2 * SEGMENT)]
    binding = study_binding(header)
    data_key = DataKey.new()
    recipient = Keyring(site.keys.worker_keys).newest()
    header.wrapped_dek = data_key.wrap(recipient, binding)
    ciphertext = b"".join(data_key.seal(shorter, binding, Digest.of(shorter)))
    header.plaintext_bytes = 2 * SEGMENT
    header.ciphertext_bytes = ciphertext_length(2 * SEGMENT)
    return SealedStudy(header, lambda: _cut(ciphertext))


async def _try_ledger(tally: Tally, site: GatewayUnderTest, step: int) -> None:
    """What the ledger keeps, flipped bit by bit and exchanged between jobs and columns."""
    jobs: list[Job] = []
    async with site.sender() as client:
        for content in (b"one", b"two"):
            await client.submit([content])
            jobs.append((await site.work_once({"measurements.json": b"{}\n"}))[0])
    one, two = jobs
    for field, opener in (("header", open_study_header), ("result_header", open_result_header)):
        sealed = getattr(one, field)
        await opener(site.vault, one)
        for bit in range(0, len(sealed) * 8, step):
            damaged = _changed(one, **{field: flipped(sealed, bit)})
            tally.add(
                "ledger: sealed header bit flipped",
                not await _refused(opener(site.vault, damaged)),
            )
        for foreign in (two.header, two.result_header, one.header, one.result_header):
            for key in (one.subject_key_id, two.subject_key_id):
                if (foreign, key) != (sealed, one.subject_key_id):
                    exchanged = _changed(one, subject_key_id=key, **{field: foreign})
                    tally.add(
                        "ledger: sealed headers exchanged",
                        not await _refused(opener(site.vault, exchanged)),
                    )
    for foreign in (one.header, two.header, one.result_header):
        exchanged = replace(one, rewrapped_dek=foreign)
        tally.add(
            "ledger: sealed headers exchanged",
            not await _refused(open_rewrapped(site.vault, exchanged)),
        )


def _changed(job: Job, **changes: Any) -> Job:
    return replace(job, **changes)


def main() -> int:
    """Run the whole set and write docs/proof/tamper.json; 1 when something was accepted."""
    logging.disable(logging.INFO)
    proof = asyncio.run(prove())
    write_proof(proof)
    sys.stdout.write(f"{proof.checks[0].seen}; {proof.figures['seconds']} s\n")
    return 0 if proof.held else 1


if __name__ == "__main__":
    sys.exit(main())
