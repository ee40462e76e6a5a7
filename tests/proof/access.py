"""Proves who is let in: every role and RPC, every bad certificate and token, and renewal.

python -m tests.proof.access
"""

from __future__ import annotations

import asyncio
import math
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import grpc

from client.access.principal import TOKEN_KEY, Role
from client.proto import ingest_pb2
from tests.access_matrix import TARGETS, Matrix, ask, methods, open_stub, rank_probability
from tests.certificate_table import CERTIFICATES, HANDSHAKES, tls_verdict, verdict
from tests.forge import TOKENS, TokenForge
from tests.gateways import TENANT, GatewayUnderTest, running_gateway
from tests.proof.records import Check, Proof, write_proof
from tests.reloading import calls_through_reloads

__all__ = ("main", "prove")

_TIMED = ("GetJob", "FetchResult", "CancelJob")
_ROUNDS = 600
_RELOADS = 5
_CALLERS = 16
_LOOK_S = 1.2  # the gateway looks at its files every second

Result = tuple[list[Check], dict[str, Any]]


async def prove() -> Proof:
    """Run every table against a real gateway."""
    checks: list[Check] = []
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="ha-") as name:
        for part in (_matrix, _certificates, _tokens, _renewal):
            folder = Path(name) / part.__name__
            folder.mkdir()
            async with running_gateway(folder) as gateway:
                more, told = await part(gateway, folder)
            checks += more
            figures |= told
    return Proof(
        name="access",
        title="Who is let in: roles, tenants, certificates, tokens",
        command="python -m tests.proof.access",
        checks=tuple(checks),
        figures=figures,
    )


async def _matrix(gateway: GatewayUnderTest, _: Path) -> Result:
    matrix = Matrix(gateway)
    await matrix.prepare()
    cells = await matrix.run()
    wrong = [cell for cell in cells if not cell.held]
    found = {(cell.rpc, cell.role, cell.target): cell for cell in cells}
    pairs = [
        (found[rpc, role, TARGETS[1]], found[rpc, role, TARGETS[2]])
        for rpc, role, target in found
        if target == TARGETS[0]
    ]
    told_apart = [
        a.rpc for a, b in pairs if a.answer.without(a.subject) != b.answer.without(b.subject)
    ]
    checks = [
        _all_of("authorisation matrix (RPC × role × owner)", len(cells), len(wrong)),
        _all_of("another tenant's id answers as one that is not", len(pairs), len(told_apart)),
    ]
    chances = {}
    for rpc in _TIMED:
        chances[rpc] = rank_probability(*await matrix.timed(rpc, _ROUNDS))
        bound = 4 / math.sqrt(6 * _ROUNDS)
        checks.append(
            Check(
                f"{rpc}: time does not tell another tenant's id from no id",
                f"rank probability 0.5 ± {bound:.3f} (four standard errors, {_ROUNDS} pairs)",
                f"{chances[rpc]:.3f}",
                abs(chances[rpc] - 0.5) < bound,
            )
        )
    codes = Counter(f"{cell.answer.code.name}" for cell in cells)
    return checks, {
        "matrix": {"rpcs": len(methods()), "roles": len(Role), "answers": dict(codes)},
        "rank_probability": {rpc: round(chance, 3) for rpc, chance in chances.items()},
    }


async def _certificates(gateway: GatewayUnderTest, folder: Path) -> Result:
    seen = {
        row.name: await verdict(gateway, row, folder / f"c{number}")
        for number, row in enumerate(CERTIFICATES)
    }
    shaken = {name: await tls_verdict(gateway, limit) for name, limit, _ in HANDSHAKES}
    wrong = sum(seen[row.name] is not row.expected for row in CERTIFICATES)
    wrong += sum(shaken[name] is not agreed for name, _, agreed in HANDSHAKES)
    checks = [_all_of("table of certificates and TLS settings", len(seen) + len(shaken), wrong)]
    told = {name: code.name for name, code in seen.items()}
    told |= {name: "agreed" if agreed else "refused" for name, agreed in shaken.items()}
    return checks, {"certificates": told}


async def _tokens(gateway: GatewayUnderTest, _: Path) -> Result:
    forge = TokenForge(TENANT, ("ml_engineer",))
    forge.publish(gateway.keys.tokens / "jwks.json")
    await asyncio.sleep(_LOOK_S)
    method = next(method for method in methods() if method.name == "ListJobs")
    told = {}
    async with open_stub(gateway) as stub:
        for row in TOKENS:
            shown = f"{row.scheme}{row.make(forge)}".encode("ascii", "replace").decode()
            request = ingest_pb2.ListJobsRequest()
            told[row.name] = await ask(stub, method, request, ((TOKEN_KEY, shown),))
    expected = {True: grpc.StatusCode.OK, False: grpc.StatusCode.UNAUTHENTICATED}
    wrong = sum(told[row.name].code is not expected[row.taken] for row in TOKENS)
    return [_all_of("table of tokens", len(TOKENS), wrong)], {
        "tokens": {name: answer.details or answer.code.name for name, answer in told.items()}
    }


async def _renewal(gateway: GatewayUnderTest, _: Path) -> Result:
    report = await calls_through_reloads(gateway, reloads=_RELOADS, callers=_CALLERS)
    fresh = len(set(report.serials))
    check = Check(
        "renewed certificates drop no call",
        f"0 failed calls, new connections see {_RELOADS} new certificates, a stream lives on",
        f"{len(report.failures)} of {report.calls} calls failed, {fresh - 1} new certificates, "
        f"stream {'ended well' if report.streams_survived else 'broke'}",
        not report.failures and report.streams_survived and fresh == _RELOADS + 1,
    )
    return [check], {"renewal": {"calls": report.calls, "failures": list(report.failures)}}


def _all_of(promise: str, number: int, wrong: int) -> Check:
    return Check(promise, f"{number} of {number}", f"{number - wrong} of {number}", not wrong)


def main() -> None:
    """Write docs/proof/access.json."""
    proof = asyncio.run(prove())
    write_proof(proof)
    sys.exit(not proof.held)


if __name__ == "__main__":
    main()
