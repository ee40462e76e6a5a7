"""Sends studies full of canaries through a real stack that is also crashed, then searches for them.

    canaries ──submit──▶ stack ──crash, retry, refuse, fetch──▶ stop ──every byte it wrote──▶ 0 hits

python -m tests.proof.canary [--studies 200]

Memory is not covered: plaintext is in the worker's and Triton's while a study is in work.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import resource
import secrets
import signal
import sqlite3
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from client.access.issuer import LocalIssuer
from client.access.principal import Role
from client.cli.sending import connect
from client.crypto.digest import Digest
from client.crypto.keydirectory import KeyDirectory
from client.crypto.keyring import Keyring
from client.crypto.studies import SealedStudy, seal_study
from client.errors import NotFound, RefusalCode, Rejected
from client.ingest.sender import IngestClient
from client.jobs import Job, JobState
from tests.faults.stand import quick_repository
from tests.local_stack import LocalStack, running_stack
from tests.proof.canary_studies import CanaryStudy, Marks, canary_studies, slow_study
from tests.proof.records import FOLDER, Check, Proof, write_proof
from tests.proof.traces import ENCODINGS, Searcher, Secret, Trace, encodings

__all__ = ("Findings", "main", "proof_of", "run")

_PARTS = ("worker", "triton", "gateway", "queue")
_OPERATIONS = (
    "status",
    "audit export --out {folder}/audit.jsonl",
    "audit verify",
    "backup {folder}/backup --keys {folder}/vault",
    "verify",
)
_SETTLE_S = 300.0
_AT_A_TIME = 8
_OUTSIDE = (Path(tempfile.gettempdir()), Path("/var/tmp"), Path("/dev/shm"), Path.home() / ".cache")
_ROOT = Path(__file__).parents[2]
_SKIPPED = frozenset((".git", ".venv", "build", "node_modules"))


@dataclass
class Findings:
    """What one run saw."""

    studies: int
    secrets: int
    patterns: int
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    opened_results: int = 0
    crashes: Counter[str] = field(default_factory=Counter)
    searched: Counter[str] = field(default_factory=Counter)
    searched_bytes: Counter[str] = field(default_factory=Counter)
    hits: set[Trace] = field(default_factory=set)
    cores: list[str] = field(default_factory=list)
    in_shared_memory: Counter[str] = field(default_factory=Counter)
    planted: int = 0
    missed: list[str] = field(default_factory=list)


def run(home: Path, repository: Path, count: int, seed: int) -> Findings:
    """Run a stack in ``home``, whose path must be short, and search everything it wrote.

    Args:
        home: An empty folder.
        repository: The model repository.
        count: Studies to send, besides the few that crash the decoder or lie about themselves.
        seed: Of the canaries; a new one for each run, so that no older run's traces are found.
    """
    rng = random.Random(seed)
    studies = canary_studies(count, rng)
    odd = [
        slow_study(count, rng),
        *(CanaryStudy(Marks.of(count + 1 + n, rng), [], "") for n in range(3)),
    ]
    every = [secret for study in (*studies, *odd) for secret in study.marks.secrets()]
    searcher = Searcher(every)
    findings = Findings(len(studies) + len(odd), len(every), len(searcher))
    _allow_core_dumps()
    began, began_at = time.monotonic(), time.time()
    with running_stack(
        home, model_repository=str(repository), lease_s=3.0, reconcile_s=1.0
    ) as stack:
        asyncio.run(_drive(stack, studies, odd, findings))
        _look_into_shared_memory(searcher, findings)
    search(places(home, began_at), searcher, findings)
    _control(home, began_at, every, searcher, findings)
    findings.seconds = time.monotonic() - began
    return findings


def _allow_core_dumps() -> None:
    """Let the stack inherit a limit that allows dumps, so that having none is its own doing."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


async def _drive(
    stack: LocalStack,
    studies: Sequence[CanaryStudy],
    odd: Sequence[CanaryStudy],
    findings: Findings,
) -> None:
    room = asyncio.Semaphore(_AT_A_TIME)

    async def send(study: CanaryStudy) -> Job:
        async with room:
            return await client.submit(study.files)

    async with stack.client() as client:
        crashing = asyncio.create_task(_crash_parts(stack, findings))
        jobs = await asyncio.gather(*map(send, studies))
        await crashing
        async with asyncio.timeout(_SETTLE_S):
            for study, job in zip(studies, jobs, strict=True):
                await _check_end(client, study, await client.wait(job.id), findings)
        await _crash_the_decoder(stack, client, odd[0], findings)
        await _lie(stack, client, odd[1:], findings)
        await _use_the_rest(client, studies, jobs, findings)
    token = _token(stack)
    await _erase(stack, token, studies[0], jobs[0], findings)
    await _operate(stack, token, findings)


async def _crash_parts(stack: LocalStack, findings: Findings) -> None:
    """End each part by a signal that would leave a core dump."""
    for part in _PARTS:
        await asyncio.sleep(1.0)
        pid = await asyncio.to_thread(stack.pid, part)
        os.kill(pid, signal.SIGSEGV)
        findings.crashes[part] += 1


async def _check_end(
    client: IngestClient, study: CanaryStudy, job: Job, findings: Findings
) -> None:
    findings.outcomes[job.code or str(job.state)] += 1
    if job.code != study.expected or (not study.expected and job.state is not JobState.DONE):
        findings.unexpected.append(f"study {study.marks.number}: {job.state} {job.code}")
    elif not study.expected:
        files = await client.fetch(job)
        name = study.marks.patient_name.encode()
        findings.opened_results += any(name in content for content in files.values())


async def _crash_the_decoder(
    stack: LocalStack, client: IngestClient, study: CanaryStudy, findings: Findings
) -> None:
    """Crash the process that reads this study, in the middle of it."""
    worker = psutil.Process(await asyncio.to_thread(stack.pid, "worker"))
    writers = set(_children_of_children(worker))
    job = await client.submit(study.files)
    async with asyncio.timeout(60):
        while not _crashed_a_reader(worker, writers):
            await asyncio.sleep(0.005)
    findings.crashes["decoder"] += 1
    await _check_end(client, study, await client.wait(job.id), findings)


def _crashed_a_reader(worker: psutil.Process, others: set[psutil.Process]) -> bool:
    for reader in _children_of_children(worker):
        with contextlib.suppress(psutil.NoSuchProcess):
            # Half a second of work is still to come; what was just forked is not yet reading.
            forks = reader.children()  # they decode frames
            if reader not in others and any(p.cpu_times().user > 0.05 for p in (reader, *forks)):
                reader.send_signal(signal.SIGSEGV)
                return True
    return False


def _children_of_children(worker: psutil.Process) -> Iterator[psutil.Process]:
    """Readers and writers: the fork server is the worker's child, they are its."""
    for server in worker.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            yield from server.children()


async def _lie(
    stack: LocalStack, client: IngestClient, studies: Sequence[CanaryStudy], findings: Findings
) -> None:
    """Send what the sender's own code would not: no bundle, changed ciphertext, a bad header."""
    plain = [str([secret.value for secret in s.marks.secrets()]).encode() for s in studies]
    no_bundle, changed, bad_header = (_sealed(stack, content) for content in plain)

    def flipped() -> Iterator[bytes]:
        content = b"".join(changed.chunks())
        yield content[:-1] + bytes([content[-1] ^ 1])

    bad_header.header.model = studies[2].marks.names[0]
    for sealed, code in (
        (no_bundle, RefusalCode.BAD_BUNDLE),
        (SealedStudy(changed.header, flipped), RefusalCode.BAD_ENVELOPE),
        (bad_header, RefusalCode.INVALID_REQUEST),
    ):
        try:
            got = (await client.wait((await client.send(sealed)).id)).code
        except Rejected as error:
            got = error.code
        findings.outcomes[got] += 1
        if got != code:
            findings.unexpected.append(f"expected {code}, got {got}")


def _sealed(stack: LocalStack, plain: bytes) -> SealedStudy:
    keys = KeyDirectory(Path(stack.settings.keys))
    tenant = stack.settings.tenant
    return seal_study(
        lambda: [plain],
        Digest.of([plain]),
        tenant=tenant,
        upload_id=str(uuid.uuid4()),
        recipient=Keyring(keys.worker_keys).newest(),
        result_key=Keyring(keys.result_keys(tenant)).newest(),
    )


async def _use_the_rest(
    client: IngestClient, studies: Sequence[CanaryStudy], jobs: Sequence[Job], findings: Findings
) -> None:
    """Search by patient, read labels, try a refused study again, cancel."""
    good, refused = studies[0], next(n for n, s in enumerate(studies) if s.expected)
    texts = good.marks.texts
    pseudonym = client.pseudonym(texts["PatientID"], texts["IssuerOfPatientID"])
    listed = await client.list_jobs(patient=pseudonym)
    label = client.label(listed[0])
    if len(listed) != 1 or label is None or label.name != good.marks.patient_name:
        findings.unexpected.append("a study was not found by its patient, or has no label")
    await client.retry(jobs[refused].id)
    again = await client.wait(jobs[refused].id)
    if again.code != studies[refused].expected:
        findings.unexpected.append(f"retried: expected {studies[refused].expected}, {again.code}")
    await client.cancel(jobs[1].id)


def _token(stack: LocalStack) -> str:
    settings = stack.settings
    keys = KeyDirectory(Path(settings.keys)).tokens
    issuer = LocalIssuer(keys, settings.token_issuer, settings.token_audience)
    roles = frozenset((Role.OPERATOR, Role.CLINICIAN, Role.AUDITOR))
    return issuer.issue(settings.tenant, "proof", roles, life_s=600)


async def _erase(
    stack: LocalStack, token: str, study: CanaryStudy, job: Job, findings: Findings
) -> None:
    """Erase a patient as an operator; nothing of the study can be had any more."""
    texts = study.marks.texts
    async with connect(replace(stack.settings, token=token)) as operator:
        pseudonym = operator.pseudonym(texts["PatientID"], texts["IssuerOfPatientID"])
        proof = await operator.erase(patient=pseudonym, reason="end of the proof")
        if proof.jobs != 1:
            findings.unexpected.append(f"erased {proof.jobs} jobs of a patient with one")
        try:
            await operator.fetch(job)
        except NotFound:
            return
    findings.unexpected.append("an erased study's result was still given out")


def places(home: Path, since: float) -> Iterator[tuple[str, Path]]:
    """Yield every file that the run may have written, each with the name of its place.

    Args:
        home: The stack's folder: all of it.
        since: Outside of it, every file that changed after this moment (seconds of the epoch).
    """
    for path in _files(home):
        yield f"home/{path.relative_to(home).parts[0]}", path
    for folder in (*_OUTSIDE, _ROOT):
        for path in _files(folder):
            if path.is_relative_to(home):
                continue
            try:
                changed = path.stat().st_mtime >= since - 1
            except OSError:
                continue
            if changed:
                yield str(folder) if folder != _ROOT else "working folder", path


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield path


def search(files: Iterable[tuple[str, Path]], searcher: Searcher, findings: Findings) -> None:
    """Search files; what another program deletes meanwhile cannot be searched and is left out."""
    for place, path in files:
        try:
            size = path.stat().st_size
            found = searcher.in_file(path, place)
        except OSError:
            continue
        findings.searched[place] += 1
        findings.searched_bytes[place] += size
        findings.hits |= found
        if _is_core_dump(path):
            findings.cores.append(place)


def _is_core_dump(path: Path) -> bool:
    """Whether a file is an ELF file of type ET_CORE (elf(5))."""
    try:
        with path.open("rb") as handle:
            head = handle.read(18)
    except OSError:
        return False
    return head[:4] == b"\x7fELF" and head[16:18] in (b"\4\0", b"\0\4")


async def _operate(stack: LocalStack, token: str, findings: Findings) -> None:
    """Run what an operator runs; what it writes and prints is searched like everything else."""
    folder = stack.home / "operated"
    folder.mkdir()
    environment = stack.environment | {"HOUNSFIELD_TOKEN": token}
    for number, command in enumerate(_OPERATIONS):
        words = [word.format(folder=folder) for word in command.split()]
        with (folder / f"{number}.txt").open("wb") as told:
            child = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).with_name("hounsfield")),
                *words,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=told,
                stderr=told,
            )
            if await child.wait() != 0:
                findings.unexpected.append(f"{words[0]} ended with {child.returncode}")


def _look_into_shared_memory(searcher: Searcher, findings: Findings) -> None:
    """Count what is in shared memory while the stack runs: it is memory, so it is only told."""
    live = Findings(0, 0, 0)
    search((("shared memory", path) for path in _files(Path("/dev/shm"))), searcher, live)
    findings.in_shared_memory = Counter(hit.secret.kind for hit in live.hits)


def _control(
    home: Path, since: float, every: Sequence[Secret], searcher: Searcher, findings: Findings
) -> None:
    """Plant canaries in every kind of place and encoding; the same search must find each."""
    texts = iter([secret for secret in every if isinstance(secret.value, str)])
    rows = iter([secret for secret in every if isinstance(secret.value, bytes)])
    spots = [
        home / "objects" / "planted",
        home / "logs" / "worker.log",
        home / "logs" / "triton.log",
        home / "queue" / "planted.aof",
        home / "run" / "planted",
        *(folder / f"hounsfield-planted-{os.getpid()}" for folder in _OUTSIDE[:3]),
        _ROOT / f".hounsfield-planted-{os.getpid()}",
    ]
    expected: set[tuple[Secret, str]] = set()
    try:
        for spot in spots:
            for encoding in ENCODINGS:
                chosen = [next(texts), *([] if "utf-16" in encoding else [next(rows)])]
                for secret in chosen:
                    _plant(spot, sorted(encodings(secret.value)[encoding])[-1])
                    expected.add((secret, encoding))
        in_table = next(texts)
        _plant_in_table(home / "ledger.sqlite", str(in_table.value))
        expected.add((in_table, "utf-8"))
        again = Findings(0, 0, 0)
        search(places(home, since), searcher, again)
    finally:
        for spot in spots:
            if "planted" in spot.name:
                spot.unlink(missing_ok=True)
    found = {(trace.secret, trace.encoding) for trace in again.hits}
    findings.planted = len(expected)
    findings.missed = [f"{secret.kind} ({how})" for secret, how in expected - found]


def _plant(path: Path, content: bytes) -> None:
    with path.open("ab") as handle:
        handle.write(b"\n-- " + content + b" --\n")


def _plant_in_table(path: Path, text: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE planted (value TEXT)")
        connection.execute("INSERT INTO planted VALUES (?)", (f"name={text};",))
    connection.close()


def proof_of(findings: Findings) -> Proof:
    """Sum up a run."""
    by_place = Counter(f"{hit.place}: {hit.secret.kind} ({hit.encoding})" for hit in findings.hits)
    size = sum(findings.searched_bytes.values())
    crashed = ", ".join(findings.crashes)
    return Proof(
        name="canary",
        title="No patient data in anything that the system writes",
        command="python -m tests.proof.canary",
        checks=(
            Check(
                "No name, id, UID, text, private tag or row of pixels is in any object, database, "
                "queue file, log, temporary file or shared memory region",
                "0 hits",
                f"{len(findings.hits)} hits in {sum(findings.searched.values())} files, {size} "
                f"bytes {dict(by_place) or ''}".strip(),
                not findings.hits,
            ),
            Check(
                "The same search finds what is planted, in every encoding and kind of place",
                f"{findings.planted} found",
                f"{findings.planted - len(findings.missed)} found {findings.missed or ''}".strip(),
                findings.planted > 0 and not findings.missed,
            ),
            Check(
                "The canaries were really in the system: every study ended as it was made to, and "
                "the decrypted results name their patients",
                "0 unexpected ends",
                f"{len(findings.unexpected)} unexpected of {findings.studies}; "
                f"{findings.opened_results} results opened {findings.unexpected or ''}".strip(),
                not findings.unexpected
                and findings.opened_results == findings.outcomes["done"] > 0,
            ),
            Check(
                f"A crash ({crashed}) leaves no core dump",
                "0 core dumps",
                f"{len(findings.cores)} core dumps {findings.cores or ''}".strip(),
                not findings.cores and len(findings.crashes) == len(_PARTS) + 1,
            ),
        ),
        figures={
            "studies": findings.studies,
            "canaries": findings.secrets,
            "patterns": findings.patterns,
            "encodings": list(ENCODINGS),
            "outcomes": dict(sorted(findings.outcomes.items())),
            "crashes": dict(findings.crashes),
            "files": dict(sorted(findings.searched.items())),
            "bytes": dict(sorted(findings.searched_bytes.items())),
            "seconds": round(findings.seconds, 1),
            "not covered": "memory: plaintext is in the worker's and Triton's while in work",
            "in shared memory while the stack runs": dict(findings.in_shared_memory),
        },
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the whole proof; 1 when a promise did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--out", type=Path, default=FOLDER)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hf-") as folder:
        home = Path(folder, "h")
        repository = quick_repository(Path(folder))
        findings = run(home, repository, chosen.studies, secrets.randbits(64))
    proof = proof_of(findings)
    write_proof(proof, chosen.out)
    for check in proof.checks:
        sys.stdout.write(f"{'held  ' if check.held else 'BROKEN'} {check.promise}: {check.seen}\n")
    return 0 if proof.held else 1


if __name__ == "__main__":
    sys.exit(main())
