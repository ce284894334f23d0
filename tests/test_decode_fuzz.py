"""Damaged and lying files by the thousand, decoded where a crash, a hang and greed for memory are seen."""

from __future__ import annotations

import os
import sys

import decode_fuzz
import pytest
from decode_fuzz import Worker, case, fuzz

COUNT = int(os.environ.get("FUZZ_INPUTS", "1500"))  # 10,000 are tried by hand

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")


def test_whatever_is_decoded_ends_as_sound_or_as_one_of_our_errors_in_bounded_time_and_memory() -> None:
    tally = fuzz(range(COUNT))
    assert tally.faults == {}
    assert sum(tally.outcomes.values()) == COUNT
    assert tally.outcomes.keys() == {
        "sound",
        "NotAudioError",
        "NoAudioStreamError",
        "EmptyAudioError",
        "TruncatedAudioError",
        "AudioTooLongError",
    }


def test_a_case_is_the_same_whenever_it_is_made() -> None:
    numbers = range(500, 530)
    assert [case(number) for number in numbers] == [case(number) for number in numbers]
    assert len({case(number) for number in numbers}) == len(numbers)


WITH = """
import os, sys
import decode_fuzz
usual = decode_fuzz.outcome
decode_fuzz.outcome = lambda data, way: usual(data, way) if data == decode_fuzz.case(1) else {fault}
decode_fuzz.work()
"""


@pytest.mark.parametrize(
    ("fault", "limit_s", "told"),
    [
        ("os.abort()", decode_fuzz.CPU_LIMIT_S, "the process ended with -6"),
        ("[0 for _ in iter(int, 1)]", 0.5, "it hangs"),
        ("str(len(b'x' * 200 * 2**20))", decode_fuzz.CPU_LIMIT_S, "MB more"),
    ],
)
def test_a_crash_a_hang_and_greed_are_seen_and_the_next_case_is_tried(
    monkeypatch: pytest.MonkeyPatch, fault: str, limit_s: float, told: str
) -> None:
    monkeypatch.setattr(decode_fuzz, "CPU_LIMIT_S", limit_s)
    tally = fuzz([2, 1], lambda: Worker(("-c", WITH.format(fault=fault))))
    assert tally.faults.keys() == {2}
    assert told in tally.faults[2]
    assert tally.outcomes == {"sound": 1}
