"""The benchmark against other engines says what it could not time, and times the rest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av")

from benchmarks import offline, peers


def broken(model: Path, vad: Path, device: str) -> peers.Peer:
    def transcribe(source: Any) -> object:
        raise IndexError("list index out of range")

    return transcribe


def missing(model: Path, vad: Path, device: str) -> peers.Peer:
    raise ImportError("No module named 'elsewhere'", name="elsewhere")


@pytest.fixture(autouse=True)
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command for one second of wav, in one round, without its subprocesses."""
    monkeypatch.setattr(offline, "start_up", lambda *_: "")
    options = "--device cpu --precisions fp32 --seconds 1 --formats wav --rounds 1 --peers broken,missing"
    monkeypatch.setattr(sys, "argv", ["offline", *options.split()])


def test_an_engine_that_fails_or_is_missing_is_named_and_ours_is_timed_still(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "PEERS", {"broken": broken, "missing": missing})
    offline.main()
    lines = capsys.readouterr().out.splitlines()
    assert "missing is left out: No module named 'elsewhere'" in lines
    assert "| 1 s wav | broken | IndexError: list index out of range |" in lines
    ours = [line.split("|") for line in lines if line.startswith("| 1 s wav | ours, fp32 |")]
    assert len(ours) == 1
    assert float(ours[0][3]) > 0


def test_an_error_of_our_own_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PEERS", {"broken": broken, "missing": missing})
    monkeypatch.setattr(offline.Transcriber, "transcribe", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        offline.main()
