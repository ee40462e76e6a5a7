"""Secrets as files: read as a cluster mounts them, strictly, and never quoted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from client.errors import ConfigurationError
from client.secretfiles import SECRETS
from client.settings import load_settings

pytestmark = pytest.mark.unit

URL = "postgresql+psycopg://hounsfield:hunter2@db/ledger"


def mounted(folder: Path, **files: str) -> Path:
    """A volume as the kubelet makes it: links to links into a folder of this version."""
    version = folder / "..2026_11_23"
    version.mkdir(parents=True)
    (folder / "..data").symlink_to(version.name)
    for name, content in files.items():
        (version / name).write_text(content)
        (folder / name).symlink_to(f"..data/{name}")
    return folder


def test_a_mounted_secret_is_a_setting(tmp_path: Path) -> None:
    folder = mounted(tmp_path / "a", HOUNSFIELD_LEDGER_URL=f"{URL}\n", HOUNSFIELD_LEASE_S=" 7.5 ")
    other = mounted(tmp_path / "b", HOUNSFIELD_TRITON_WORKER_KEY="key")
    (folder / "lost+found").mkdir()
    settings = load_settings({SECRETS: f"{folder}:{other}", "HOUNSFIELD_TENANT": "north"})
    assert settings.ledger_url == URL
    assert settings.lease_s == 7.5
    assert settings.triton_worker_key == "key"
    assert settings.tenant == "north"
    assert "hunter2" not in repr(settings)


def test_settings_from_files_travel_by_value(tmp_path: Path) -> None:
    settings = load_settings({SECRETS: str(mounted(tmp_path / "a", HOUNSFIELD_LEDGER_URL=URL))})
    assert SECRETS not in settings.environment()
    assert load_settings(settings.environment()) == settings


def test_a_variable_given_both_ways_is_an_error(tmp_path: Path) -> None:
    folder = mounted(tmp_path / "a", HOUNSFIELD_LEDGER_URL=URL)
    with pytest.raises(ConfigurationError, match="HOUNSFIELD_LEDGER_URL is a variable and a file"):
        load_settings({SECRETS: str(folder), "HOUNSFIELD_LEDGER_URL": URL})
    with pytest.raises(ConfigurationError, match="two of the folders"):
        load_settings({SECRETS: f"{folder}:{folder}"})


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("HOUNSFIELD_LEGDER_URL", b"hunter2", "Unknown setting"),
        ("ca.crt", b"hunter2", "Unknown setting"),
        ("HOUNSFIELD_LEASE_S", b"hunter2", "expected float, got \\*\\*\\*"),
        ("HOUNSFIELD_TOKENS", b"hunter2", "optional or required, got \\*\\*\\*"),
        ("HOUNSFIELD_TOKEN", b"hunter2\xff", "not UTF-8"),
        ("HOUNSFIELD_TOKEN", b"hunter2\0", "null byte"),
        ("HOUNSFIELD_TOKEN", b"hunter2" * 10_000, "too long"),
    ],
)
def test_a_bad_file_names_itself_and_not_its_content(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=words) as caught:
        load_settings({SECRETS: str(tmp_path)})
    assert name in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/none: No such file"):
        load_settings({SECRETS: f"{tmp_path}/none"})


def test_credentials_of_clouds_reach_the_libraries_that_read_the_environment(
    tmp_path: Path,
) -> None:
    folder = mounted(tmp_path / "a", AWS_SECRET_ACCESS_KEY="hunter2\n", HOUNSFIELD_TOKEN="t")
    program = (
        "import os; from client.settings import load_settings\n"
        "assert load_settings().token == 't'\n"
        "assert os.environ['AWS_SECRET_ACCESS_KEY'] == 'hunter2'\n"
        "load_settings()\n"  # again, as a command does that starts others
        "os.environ['AWS_SECRET_ACCESS_KEY'] = 'other'\n"
        "load_settings()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            "PATH": os.defpath,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            SECRETS: str(folder),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1].endswith(
        f"AWS_SECRET_ACCESS_KEY is a variable and a file of {SECRETS}: keep one."
    )


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    folder = mounted(tmp_path / "a", AWS_SECRET_ACCESS_KEY="hunter2")
    before = dict(os.environ)
    load_settings({SECRETS: str(folder)})
    assert dict(os.environ) == before
