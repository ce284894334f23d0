from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("scipy")
from training.kokoro import Request, Spoken
from training.laughs import BETWEEN, ENDS, OPENINGS, SYLLABLES, VOWELS, laugh_requests, laughed
from training.speech import ALL_TRAINING_VOICES, HELD_OUT_VOICES, Casting

SYMBOLS = {
    symbol: number
    for number, symbol in enumerate(sorted({*"".join((VOWELS, *OPENINGS, *BETWEEN, ENDS)), *"h, "}), 1)
}
LETTERS = {number: symbol for symbol, number in SYMBOLS.items()}


@pytest.fixture(scope="module")
def casting() -> Casting:
    held_out = {name for split in HELD_OUT_VOICES.values() for name in split.values()}
    voices = {name: np.full((60, 256), n, np.float32) for n, name in enumerate(sorted(ALL_TRAINING_VOICES))}
    return Casting(SYMBOLS, {**voices, **{name: np.full((60, 256), np.nan, np.float32) for name in held_out}})


def read(request: Request) -> str:
    return "".join(LETTERS[number] for number in request.ids)


def test_a_laugh_is_h_and_a_vowel_again_and_again(casting: Casting) -> None:
    for request in laugh_requests(casting, 50, seed=1):
        laugh = read(request)
        assert laugh[-1] in ENDS
        for breath in laugh[:-1].split(", "):
            syllables = breath[breath.index("h") :].replace(" ", "")
            vowels = set(syllables[1::2])
            assert set(syllables[::2]) == {"h"}
            assert len(vowels) == 1
            assert vowels <= set(VOWELS)
            assert SYLLABLES[0] <= len(syllables) / 2 <= SYLLABLES[1]
            assert breath[: breath.index("h")] in OPENINGS


def test_each_laugh_has_its_own_rhythm_and_no_held_out_voice(casting: Casting) -> None:
    requests = laugh_requests(casting, 50, seed=1)
    assert all(
        request.stretch is not None and len(request.stretch) == len(request.ids) + 2 for request in requests
    )
    assert all(np.isfinite(request.style).all() for request in requests)
    assert len({round(request.prosody.pitch, 6) for request in requests}) == 50
    assert len({read(request) for request in requests}) > 40


def test_the_same_seed_laughs_the_same_and_another_otherwise(casting: Casting) -> None:
    first, again, other = (laugh_requests(casting, 3, seed) for seed in (1, 1, 2))
    assert [read(request) for request in first] == [read(request) for request in again]
    assert all(np.array_equal(a.stretch, b.stretch) for a, b in zip(first, again, strict=True))
    assert [read(request) for request in first] != [read(request) for request in other]


def test_laughs_are_levelled_without_the_silence_around_them(casting: Casting) -> None:
    class Humming:
        def speak(self, requests: Sequence[Request], *, batch_frames: int) -> Iterator[Spoken]:
            sound = torch.zeros(len(requests), 48_000)
            sound[:, 16_000:32_000] = 0.1 * torch.sin(torch.arange(16_000) * 0.3)
            yield Spoken(list(requests), sound, torch.zeros(len(requests), 1))

    clips = dict(laughed(SimpleNamespace(speak=Humming().speak), laugh_requests(casting, 2, 1)))  # type: ignore[arg-type]
    assert sorted(clips) == ["Laughter/000", "Laughter/001"]
    for clip in clips.values():
        assert clip.dtype == np.int16
        assert len(clip) == pytest.approx(16_000, abs=20)
        assert np.abs(clip).max() == pytest.approx(0.9 * 32_767, abs=1)
