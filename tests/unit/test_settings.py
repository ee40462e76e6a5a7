"""Settings are parsed strictly, travel to child processes, and never show a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.errors import ConfigurationError
from client.settings import Settings, load_settings

pytestmark = pytest.mark.unit


def test_everything_has_a_default_under_home(tmp_path: Path) -> None:
    settings = load_settings({"HOUNSFIELD_HOME": str(tmp_path)})
    assert settings.keys == str(tmp_path / "keys")
    assert settings.ledger_url == f"sqlite+aiosqlite:///{tmp_path}/ledger.sqlite"
    assert settings.store_url == f"file://{tmp_path}/objects"
    assert (Path(settings.model_repository) / "brain_mr" / "model.yaml").is_file()


def test_settings_travel_to_another_process(tmp_path: Path) -> None:
    settings = load_settings({"HOUNSFIELD_HOME": str(tmp_path), "HOUNSFIELD_LEASE_S": "7.5"})
    assert load_settings(settings.environment()) == settings
    assert settings.lease_s == 7.5


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HOUNSFIELD_LEASE_SECONDS", "3", "Unknown setting"),
        ("HOUNSFIELD_LEASE_S", "soon", "expected float"),
        ("HOUNSFIELD_LEASE_S", "nan", "at least 1"),
        ("HOUNSFIELD_MAX_ATTEMPTS", "0", "at least 1"),
        ("HOUNSFIELD_PROFILE", "tpu", "cpu or gpu"),
        ("HOUNSFIELD_LOG_FORMAT", "xml", "text or json"),
        ("HOUNSFIELD_TRACE_RATIO", "1.5", "at most 1"),
        ("HOUNSFIELD_TRACE_RATIO", "nan", "at least 0"),
        ("HOUNSFIELD_TRACE_RATIO", "-1", "at least 0"),
    ],
)
def test_a_bad_setting_names_itself(name: str, value: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        load_settings({name: value})
    assert name in str(caught.value)


def test_repr_masks_the_password() -> None:
    settings = Settings(queue_url="rediss://user:hunter2@queue:6379/0")
    assert "hunter2" not in repr(settings)
    assert "rediss://***@queue:6379/0" in repr(settings)
