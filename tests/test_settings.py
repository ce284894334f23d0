from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from sensevoice.hub import HUBS
from sensevoice.options import LANGUAGES, TranscribeOptions
from sensevoice.settings import Hub, Settings, SpokenLanguage


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SENSEVOICE_{name.upper()}", raising=False)


def test_a_bare_environment_gives_the_documented_defaults():
    settings = Settings()
    assert settings.model is None
    assert (settings.hub, settings.device, settings.offline) == ("modelscope", "auto", False)
    assert (settings.host, settings.port) == ("0.0.0.0", 6006)
    assert (settings.lang, settings.language) == ("auto", "auto")
    assert settings.max_duration_s == TranscribeOptions().max_duration_s


def test_the_environment_overrides_each_default(monkeypatch: pytest.MonkeyPatch):
    values = {
        **{
            "model": "/models/mine",
            "hub": "huggingface",
            "device": "cuda:1",
            "precision": "bf16",
            "offline": True,
        },
        **{"host": "127.0.0.1", "port": 8000, "lang": "en", "language": "yue"},
        **{"max_duration_s": 60.0, "max_upload_mb": 5.0, "upload_timeout_s": 20.0, "upload_idle_s": 2.0},
        **{"head_timeout_s": 3.0},
        **{"decode_timeout_s": 9.0, "request_timeout_s": 99.0, "rate_per_minute": 6},
        **{"workers": 3, "queue_length": 7, "spool_dir": Path("/spool"), "grace_s": 5.0},
        **{"log_level": "debug", "log_format": "text", "ui": False, "log_transcripts": True},
    }
    untried = {"api_keys", "cors_origins"}  # below
    jobs = {name for name in Settings.model_fields if name.startswith(("job_", "webhook_", "stream_"))}
    assert values.keys() == Settings.model_fields.keys() - untried - jobs
    for name, value in values.items():
        monkeypatch.setenv(f"SENSEVOICE_{name.upper()}", "1" if value is True else str(value))
    assert Settings().model_dump(exclude=untried | jobs) == values


def test_keys_and_origins_are_separated_by_commas_and_keys_are_never_printed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SENSEVOICE_API_KEYS", "sk-one, sk-two,")
    monkeypatch.setenv("SENSEVOICE_CORS_ORIGINS", "https://a.example,https://b.example")
    settings = Settings()
    assert settings.api_keys == ("sk-one", "sk-two")
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert "sk-one" not in repr(settings)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SENSEVOICE_MODEL", "")
    monkeypatch.setenv("SENSEVOICE_PORT", "")
    assert (Settings().model, Settings().port) == (None, 6006)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("language", "xx"),
        ("hub", "github"),
        ("max_duration_s", "0"),
        ("offline", "perhaps"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_with_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    monkeypatch.setenv(f"SENSEVOICE_{name.upper()}", value)
    with pytest.raises(ValidationError, match=name):
        Settings()


def test_every_setting_is_described_and_choices_agree_with_the_rest():
    assert all(field.description for field in Settings.model_fields.values())
    assert SpokenLanguage.__args__ == LANGUAGES
    assert Hub.__args__ == tuple(HUBS)
