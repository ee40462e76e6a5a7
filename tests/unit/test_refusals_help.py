"""Every refusal in the code tells a hospital what to do about it, and every code is explained."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.errors import RefusalCode

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
ADVICE = re.compile(
    r"\b(send|sent|export|encrypt|correct|raise|leave|use|ask|report|compare|choose|restore|look"
    r"|nothing is to be done|docs/protocol\.md)\b",
    re.IGNORECASE,
)


def refusals() -> Iterator[tuple[str, str]]:
    """Place and text of every refusal that is written out in the code."""
    for path in sorted((ROOT / "client").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or len(node.args) != 2:
                continue
            if getattr(node.func, "id", "") != "Rejected":
                continue
            parts = [
                part.value
                for part in ast.walk(node.args[1])
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
            if len("".join(parts)) > 10:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", "".join(parts)


def test_every_refusal_says_what_to_do() -> None:
    found = dict(refusals())
    assert len(found) > 40
    assert [place for place, text in found.items() if not ADVICE.search(text)] == []


def test_every_code_is_used_or_given_by_the_ledger() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "client").rglob("*.py"))
    assert [code for code in RefusalCode if f"RefusalCode.{code}" not in text] == []


def test_every_code_has_a_page_entry_with_its_own_words() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text()
    source = (ROOT / "client" / "errors.py").read_text()
    for code in RefusalCode:
        (meaning,) = re.findall(rf'{code} = "{code}"\n    """(.*?)"""', source, re.DOTALL)
        assert f"| `{code}` | {meaning} |" in page, code
