"""The soak test's own test: it is run by hand with thousands of requests, here with a few."""

from __future__ import annotations

import sys

import pytest

from benchmarks import soak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def test_every_kind_of_request_is_made_and_nothing_is_lost_mixed_up_or_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(soak, "GROWTH_LIMIT_MB", 500.0)  # a few requests only warm it up
    report = soak.soak(requests=40, clients=8)
    assert report.faults == []
    assert report.asked == {
        **{"transcribe": 20, "openai": 4, "streamed": 4},
        **{"job": 4, "noise": 4, "leave": 4},
    }
    assert len(report.health_ms) > 1
    assert list(report.lines())[-1] == "nothing lost, nothing mixed up, nothing left"


def test_growth_is_a_fault() -> None:
    report = soak.Report(warm=soak.Usage(500, 12, 9), end=soak.Usage(700, 14, 9), took_s=1.0)
    soak._check_growth(report)
    assert report.faults == ["memory grew by 200 MB", "2 more files are open"]
    assert list(report.lines())[-1] == "not well"
