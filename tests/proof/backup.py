"""Backup and restore drill: a system under load is saved, the saving killed, and all brought back.

senders ▶ gateway A ▶ `hounsfield backup` (killed, again) ▶ PostgreSQL and S3 ▶ back ▶ gateway B

The judge is what the senders were told: every study acknowledged before the last backup began must
be there, its result fetched or its work done on the restored system, byte by byte.

python -m tests.proof.backup
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.backup.restoring import check_backup
from client.errors import ConfigurationError, NotFound
from client.jobs import JobState
from client.objectstore.localobjects import LocalObjectStore
from client.upkeep.reconcile import Reconciler, ReconcilerSettings
from tests.gateways import LEASE_S, GatewayUnderTest, running_gateway
from tests.postgres import postgres_url
from tests.proof.records import Check, Proof, write_proof
from tests.seaweed import credentials, seaweed

__all__ = ("Drill", "DrillReport", "main")

_COMMAND_S = 300
_RESULTS = {"segmentation-1.dcm": b"SEG" * 1000, "measurements.json": b'{"volume_ml": 1}'}


@dataclass
class DrillReport:
    """What a drill saw.

    Attributes:
        acknowledged: Studies of which the senders were told before the last backup began.
        kept: How many of them came back whole on the restored system.
        objects: Objects whose SHA-256 was verified on the restored system.
        kills: Backups that were killed; ``refused`` of them left nothing that counts, ``former``
            the former backup, whole.
        faults: Whatever else was not as it should be.
        seconds: Of each step.
    """

    acknowledged: int = 0
    kept: int = 0
    objects: int = 0
    copied_last: int = 0
    kills: int = 0
    refused: int = 0
    former: int = 0
    through: str = ""
    faults: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class Drill:
    """One drill in a folder of its own.

    Args:
        folder: Empty.
        studies: Studies to submit before the last backup, at least.
        kills: Backups to kill before.
    """

    def __init__(self, folder: Path, studies: int, kills: int) -> None:
        self._folder = folder
        self._studies = studies
        self._kills = kills
        self._told: dict[str, bytes] = {}
        self._told_before: dict[str, bytes] = {}
        self.report = DrillReport()

    async def run(self) -> DrillReport:
        """Do everything; return what was seen."""
        first, last = self._folder / "a", self._folder / "b"
        async with running_gateway(first) as gateway:
            load = asyncio.create_task(self._load(gateway))
            try:
                await self._save_under_kills(first)
            finally:
                load.cancel()
                await asyncio.gather(load, return_exceptions=True)
        with self._far_away() as (name, variables):
            self.report.through = name
            saved = self._folder / "saved"
            shutil.copytree(first / "keys", self._folder / "p" / "keys")
            away = {"HOUNSFIELD_HOME": str(self._folder / "p"), **variables}
            self._timed("restore", lambda: self._restore(saved, away))
            again = self._folder / "again"
            keys = ("--keys", f"{again}-keys")
            self._timed("backup_again", lambda: self._hounsfield(away, "backup", str(again), *keys))
            shutil.copytree(first / "keys", last / "keys")
            self._restore(again, {"HOUNSFIELD_HOME": str(last)})
        await self._judge(last)
        return self.report

    async def _load(self, gateway: GatewayUnderTest) -> None:
        async with gateway.sender() as sender:
            for number in range(10_000):
                content = os.urandom(random.randrange(1, 300_000))
                job = await sender.submit([content], upload_id=str(uuid.uuid4()))
                self._told[job.id] = content
                if number % 2:
                    await gateway.work_once(_RESULTS)

    async def _save_under_kills(self, home: Path) -> None:
        variables = {"HOUNSFIELD_HOME": str(home)}
        saved = self._folder / "saved"
        command = ("backup", str(saved), "--keys", f"{saved}-keys", "--json")
        for _ in range(self._kills):
            await self._kill_one(variables, command, saved)
            if self.report.kills == self._kills // 2:
                await asyncio.to_thread(self._hounsfield, variables, *command)
        while len(self._told) < self._studies:
            await asyncio.sleep(0.05)
        before = dict(self._told)
        began = time.monotonic()
        told = await asyncio.to_thread(self._hounsfield, variables, *command)
        self.report.seconds["backup"] = time.monotonic() - began
        self.report.copied_last = told.get("copied", 0)
        self._told_before = before
        self.report.acknowledged = len(before)
        check = ("verify", "--backup", str(saved), "--json")
        await asyncio.to_thread(self._hounsfield, variables, *check)

    async def _kill_one(
        self, variables: Mapping[str, str], command: tuple[str, ...], saved: Path
    ) -> None:
        files = _files(saved)
        process = subprocess.Popen(
            _command(*command), env=_environment(variables), stdout=subprocess.DEVNULL
        )
        while process.poll() is None and _files(saved) == files:
            await asyncio.sleep(0.002)
        await asyncio.sleep(random.choice((0.0, 0.0, 0.01, 0.05, 0.2)))
        process.send_signal(signal.SIGKILL)
        if await asyncio.to_thread(process.wait) != -signal.SIGKILL:
            return  # it was faster
        self.report.kills += 1
        try:
            checked = await check_backup(LocalObjectStore(saved))
        except ConfigurationError:
            self.report.refused += 1
        else:
            self.report.former += 1
            self.report.faults += [f"after a kill: {fault.key}" for fault in checked.faults]

    def _restore(self, saved: Path, variables: Mapping[str, str]) -> None:
        self._hounsfield(variables, "restore", str(saved), "--keys", f"{saved}-keys", "--json")
        told = self._hounsfield(variables, "verify", "--json")
        self.report.objects = told.get("objects", 0)

    async def _judge(self, home: Path) -> None:
        async with running_gateway(home) as gateway:
            settings = ReconcilerSettings(waiting_s=0)
            reconciler = Reconciler(gateway.ledger, gateway.queue, gateway.store, settings)
            # A job saved while a worker had it is free when that worker's lease has run out.
            until = time.monotonic() + 2 * LEASE_S
            while set(await gateway.ledger.counts()) != {JobState.DONE}:
                await reconciler.once()
                async for job_id, files in _rest(gateway):
                    if job_id in self._told and files != [self._told[job_id]]:
                        self.report.faults.append(f"{job_id}: the study is another")
                if time.monotonic() > until:
                    break
                await asyncio.sleep(0.5)
            async with gateway.sender() as sender:
                for job_id in self._told_before:
                    with contextlib.suppress(NotFound):
                        self.report.kept += await sender.fetch(job_id) == _RESULTS
            counts = await gateway.ledger.counts()
            if set(counts) != {JobState.DONE}:
                self.report.faults.append(f"not all jobs are done: {counts}")

    @contextlib.contextmanager
    def _far_away(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield the settings of PostgreSQL and S3, as far as they are to be had here."""
        names, variables = [], {}
        with postgres_url() as database, seaweed() as server:
            if database is not None:
                names.append("PostgreSQL")
                variables["HOUNSFIELD_LEDGER_URL"] = database
            if server is not None:
                names.append("S3")
                server.make_bucket("drill")
                variables["HOUNSFIELD_STORE_URL"] = server.url("drill")
                variables |= credentials()
            yield " and ".join(names) or "SQLite and files", variables

    def _hounsfield(self, variables: Mapping[str, str], *arguments: str) -> dict[str, Any]:
        run = subprocess.run(
            _command(*arguments),
            env=_environment(variables),
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )
        if run.returncode != 0:
            self.report.faults.append(f"{arguments[0]} ended with {run.returncode}: {run.stderr}")
        return dict(json.loads(run.stdout)) if run.stdout.startswith("{") else {}

    def _timed(self, step: str, work: Any) -> None:
        began = time.monotonic()
        work()
        self.report.seconds[step] = time.monotonic() - began


async def _rest(gateway: GatewayUnderTest) -> AsyncIterator[tuple[str, list[bytes]]]:
    while await gateway.queue.job_ids():
        job, files = await gateway.work_once(_RESULTS)
        yield job.id, files


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from client.cli.main import main; main()", *arguments]


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {"PATH": os.defpath, "PYTHONPATH": root, "HOME": "/nonexistent", **variables}


def _files(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def _proof(report: DrillReport) -> Proof:
    checks = (
        Check(
            "every study that a sender was told is stored comes back whole",
            f"{report.acknowledged} of {report.acknowledged}",
            f"{report.kept} of {report.acknowledged}",
            report.kept == report.acknowledged > 0,
        ),
        Check(
            "a backup that was killed counts for nothing or leaves the former one whole",
            f"{report.kills} kills, 0 faults",
            f"{report.refused} refused, {report.former} former ones whole",
            report.refused + report.former == report.kills > 0,
        ),
        Check(
            "every object's SHA-256, every entry of the audit trail and every exit code is right",
            "0 faults",
            f"{report.objects} objects, {len(report.faults)} faults {report.faults[:3]}",
            not report.faults and report.objects > 0,
        ),
    )
    figures = {
        "through": report.through,
        "new objects in the last backup": report.copied_last,
        "seconds": {name: round(value, 1) for name, value in report.seconds.items()},
    }
    title = "A system under load is saved, the saving killed, and all of it brought back"
    return Proof("backup", title, "python -m tests.proof.backup", checks, figures)


def main() -> int:
    """Run the long drill; return 1 when a promise did not hold."""
    with tempfile.TemporaryDirectory(prefix="hd-") as folder:
        report = asyncio.run(Drill(Path(folder), studies=200, kills=20).run())
    proof = _proof(report)
    write_proof(proof)
    sys.stdout.write(f"{report}\n")
    return 0 if proof.held else 1


if __name__ == "__main__":
    sys.exit(main())
