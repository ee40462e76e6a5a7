"""Erases patients while the gateway crashes in the middle of it: called again, it is completed.

study ──acknowledged──▶ erase ──crash──▶ erase again ──▶ proof; nobody can read it any more
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path

from client.access.issuer import LocalIssuer
from client.access.principal import Role
from client.cli.sending import sender_settings
from client.crypto.keydirectory import KeyDirectory
from client.errors import Transient
from client.ingest.sender import IngestClient
from tests.faults.senders import Load, patient_id
from tests.faults.stand import Stand

__all__ = ("erase_one",)

_TOKEN_S = 600
_PAUSE_S = 0.2
_TIMEOUT_S = 60.0


async def erase_one(stand: Stand, load: Load) -> None:
    """Hand in a study of a new patient, and erase the patient, until the proof of it came."""
    number, upload_id = await load.hand_in()
    async with asyncio.timeout(_TIMEOUT_S), _operator(stand) as operator:
        pseudonym = operator.pseudonym(patient_id(number))
        while True:
            with contextlib.suppress(Transient):
                await operator.erase(patient=pseudonym, reason="chaos run")
                break
            await asyncio.sleep(_PAUSE_S)
    load.journal.note("erased", upload_id)


def _operator(stand: Stand) -> IngestClient:
    """Somebody who may erase."""
    settings = stand.settings
    issuer = LocalIssuer(
        KeyDirectory(Path(settings.keys)).tokens, settings.token_issuer, settings.token_audience
    )
    token = issuer.issue(settings.tenant, "operator", frozenset((Role.OPERATOR,)), _TOKEN_S)
    return IngestClient(replace(sender_settings(settings), token=token))
