"""Tones that are made, and words that are said apart: the synthesiser's pitch and its pauses."""

from __future__ import annotations

import random
from itertools import islice

import numpy as np
import pytest
import torch

from training.kokoro import FRAME_SAMPLES_16K, Prosody, Request, Spoken, pulled_apart
from training.speech import draw_pauses
from training.tones import LEVELS, MIDDLE, SEMITONES, Toned, tones_of, with_tones
from training.words import Vocabulary, one_by_one

SYMBOLS = {symbol: number for number, symbol in enumerate("si→↗↓ham ,.", 1)}
STYLE = np.zeros(256, np.float32)
FRAMES = 20  # of a token, so that a contour has room to turn


def contour(tones: tuple[Toned, ...], count: int, hz: float = 200.0) -> torch.Tensor:
    """The pitch of `count` tokens and two end marks that were spoken at a constant height."""
    durations = torch.full((count + 2,), FRAMES)
    pitch = torch.full((1, 2 * FRAMES * (count + 2)), hz)
    return with_tones(pitch, [durations], [tones], 10.0)[0]


def semitones(hz: torch.Tensor) -> torch.Tensor:
    return 12 * torch.log2(hz / 200.0)


def test_a_tone_belongs_to_the_symbols_since_the_last_tone_pause_or_gap() -> None:
    assert tones_of("si→1, ham3?si↓4", SYMBOLS) == (Toned(0, 3, 1), Toned(5, 8, 3), Toned(8, 11, 4))
    assert tones_of("ham si→1", SYMBOLS) == (Toned(4, 7, 1),)
    assert tones_of("ham. si", SYMBOLS) == ()


@pytest.mark.parametrize("tone", range(1, 7))
def test_a_syllables_pitch_runs_from_its_tones_first_level_to_its_last(tone: int) -> None:
    pitch = contour((Toned(1, 2, tone),), 3)
    sung = semitones(pitch[2 * FRAMES * 2 : 2 * FRAMES * 3])
    low, high = (SEMITONES * (level - MIDDLE) for level in LEVELS[tone - 1])
    assert sung[5].item() == pytest.approx(low, abs=0.35)  # the sentence's fall is 2 semitones in all
    assert sung[-4].item() == pytest.approx(high, abs=0.35)
    assert torch.equal(pitch[: 2 * FRAMES * 2], torch.full((2 * FRAMES * 2,), 200.0))
    assert torch.equal(pitch[2 * FRAMES * 3 :], torch.full((2 * FRAMES * 2,), 200.0))


def test_all_six_tones_differ_in_pitch() -> None:
    runs = [contour((Toned(1, 2, tone),), 3)[2 * FRAMES * 2 : 2 * FRAMES * 3] for tone in range(1, 7)]
    apart = [(semitones(a) - semitones(b)).abs().max().item() for a in runs for b in runs if a is not b]
    assert min(apart) > 1.5


def test_where_no_voice_sounds_and_where_no_tone_is_known_the_pitch_stays() -> None:
    durations = torch.tensor([3, 4, 4, 3])
    pitch = torch.linspace(100, 300, 28)[None].repeat(2, 1)
    pitch[:, 8:11] = 0.0
    toned = with_tones(pitch, [durations, durations], [(Toned(0, 2, 6),), ()], 10.0)
    assert torch.equal(toned[1], pitch[1])
    assert torch.equal(toned[0, 8:11], pitch[0, 8:11])
    assert (toned[0, 6:8] != pitch[0, 6:8]).all()
    assert torch.equal(toned[0, :6], pitch[0, :6])


def test_pauses_are_put_into_full_stops_and_the_times_of_the_phonemes_move() -> None:
    request = Request([1, 2, 3], STYLE, Prosody(), 7, 0, pauses=((1, 5),))
    usual = Request([1, 2, 3], STYLE, Prosody(), 8, 0)
    durations = torch.tensor([[4, 6, 2, 6, 4], [4, 6, 2, 6, 4]])
    samples = torch.ones(2, 22 * FRAME_SAMPLES_16K)
    unchanged, pulled = pulled_apart(Spoken([request, usual], samples, durations))
    assert unchanged.requests == [usual]
    assert torch.equal(unchanged.samples, samples[1:])
    assert pulled.requests == [request]
    assert pulled.durations.tolist() == [[4, 6, 7, 6, 4]]
    silent = pulled.samples[0].view(-1, FRAME_SAMPLES_16K).abs().amax(dim=1) == 0
    assert silent.nonzero()[:, 0].tolist() == [
        11,
        12,
        13,
        14,
        15,
    ]  # the stop's middle: after 4 + 6 + 1 frames
    assert pulled.samples.sum() > 0.98 * samples[0].sum()


def test_a_list_pauses_at_all_full_stops_but_its_last() -> None:
    for seed in range(20):
        pauses = draw_pauses(np.random.default_rng(seed), [5, 9, 6, 7, 9, 8, 9], stop=9)
        assert [token for token, _ in pauses] == [1, 4]
        longest = max(frames for _, frames in pauses)
        assert all(longest / 2 - 1 <= frames <= longest <= 24 for _, frames in pauses)


def test_characters_said_alone_are_the_commonest_of_those_that_are_read_alike() -> None:
    vocabulary = Vocabulary(("他", "她", "它", "天气", "马", "码"), 6)
    reading = {"他": "ta1", "她": "ta1", "它": "ta1", "马": "ma3", "码": "ma3"}
    lists = [*islice(one_by_one(vocabulary, reading.__getitem__, random.Random(0)), 50)]
    assert {word for chosen in lists for word in chosen} == {"他", "马"}
    assert {len(chosen) for chosen in lists} == set(range(1, 9))


def test_other_lists_are_of_common_words() -> None:
    vocabulary = Vocabulary(("apple", "go", "zyzzyva"), 2)
    lists = [*islice(one_by_one(vocabulary, None, random.Random(0)), 50)]
    assert {word for chosen in lists for word in chosen} == {"apple", "go"}
