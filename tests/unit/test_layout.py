"""The guards that make flat package names safe."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib import metadata
from pathlib import Path

import pytest

from client.settings import setting_table

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("client", "preprocess", "export", "loadtest", "training")


@pytest.mark.parametrize("name", PACKAGES)
def test_each_package_is_ours(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).parent == ROOT / name


def test_no_module_is_named_like_the_standard_library_or_a_dependency() -> None:
    taken = set(sys.stdlib_module_names) | set(metadata.packages_distributions())
    taken -= set(PACKAGES) | {"tests", "scripts", "model_repository"}
    ours = [
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "buf" not in path.parts
    ]
    clashes = [str(path.relative_to(ROOT)) for path in ours if path.stem in taken]
    assert clashes == []


@pytest.mark.parametrize("name", PACKAGES)
def test_every_module_says_its_one_job_in_its_first_line(name: str) -> None:
    for path in (ROOT / name).rglob("*.py"):
        if "_pb2" in path.name or "buf" in path.parts:
            continue
        text = path.read_text()
        assert text.startswith(('"""', 'r"""')), path
        assert "__all__" in text or path.name == "__init__.py", path


def test_exports_are_tuples_of_names_that_exist() -> None:
    for path in (ROOT / "client").rglob("*.py"):
        if "_pb2" in path.name or "buf" in path.parts or path.name == "__init__.py":
            continue
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        names = module.__all__
        assert isinstance(names, tuple), path
        assert all(hasattr(module, name) for name in names), path


def test_configuration_page_lists_every_setting() -> None:
    assert setting_table() in (ROOT / "docs" / "configuration.md").read_text()
