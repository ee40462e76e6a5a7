"""docs/access.md says what the table of rules says."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.access.principal import Principal, Role
from client.access.rules import RULES, authorise
from client.access.tokens import ALGORITHMS
from client.errors import AccessDenied
from client.limits import AccessLimits

pytestmark = pytest.mark.unit

DOCS = Path(__file__).resolve().parents[2] / "docs"


def table() -> str:
    rows = [f"| call | {' | '.join(Role)} |", f"|---|{'---|' * len(Role)}"]
    for rpc, roles in RULES.items():
        rows.append(f"| {rpc} | {' | '.join('yes' if role in roles else '' for role in Role)} |")
    return "\n".join(rows)


def test_the_page_has_the_table_and_the_bounds() -> None:
    page = (DOCS / "access.md").read_text()
    assert table() in page, f"docs/access.md needs:\n{table()}"
    assert f"differ by {AccessLimits().clock_leeway_s} s" in page
    assert all(name in page for name in ("ES256", "ES384", "ES512", "RS256", "EdDSA"))
    assert len(ALGORITHMS) == 10
    assert (
        f"| bearer token | {AccessLimits().max_token_bytes} bytes"
        in (DOCS / "protocol.md").read_text()
    )


def test_the_glass_is_broken_only_when_no_other_role_helps() -> None:
    both = frozenset((Role.BREAK_GLASS, Role.CLINICIAN))
    assert authorise(Principal("t", "x", both), "FetchResult").role is Role.CLINICIAN
    auditor = frozenset((Role.BREAK_GLASS, Role.AUDITOR))
    with pytest.raises(AccessDenied, match="reason"):
        authorise(Principal("t", "x", auditor), "FetchResult")
    caller = authorise(Principal("t", "x", auditor, "patient unconscious"), "FetchResult")
    assert (caller.role, caller.glass_reason) == (Role.BREAK_GLASS, "patient unconscious")
    assert caller.actor.role == "break_glass"


def test_an_rpc_without_a_row_is_nobodys() -> None:
    for role in Role:
        with pytest.raises(AccessDenied, match="none"):
            authorise(Principal("t", "x", frozenset((role,)), "long enough reason"), "NewCall")
