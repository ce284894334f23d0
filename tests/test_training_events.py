from __future__ import annotations

import numpy as np
import pytest

from training.events import EVENTS, coloured_noise, make_event, room_response


@pytest.mark.parametrize("kind", EVENTS)
@pytest.mark.parametrize("duration_s", [0.5, 2.0])
def test_an_event_has_its_length_type_and_peak(kind: str, duration_s: float) -> None:
    for seed in range(3):
        sound = make_event(kind, np.random.default_rng(seed), duration_s)
        assert sound.dtype == np.float32
        assert sound.shape == (round(duration_s * 16_000),)
        assert 0.499 <= np.abs(sound).max() <= 0.901


@pytest.mark.parametrize("kind", EVENTS)
def test_the_same_seed_gives_the_same_event_and_another_seed_another(kind: str) -> None:
    first, again, other = (make_event(kind, np.random.default_rng(seed), 1.0) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.5


def test_an_unknown_kind_or_too_short_an_event_is_refused() -> None:
    with pytest.raises(KeyError, match="Yodel"):
        make_event("Yodel", np.random.default_rng(0), 1.0)
    with pytest.raises(ValueError, match="at least"):
        make_event("Cough", np.random.default_rng(0), 0.2)


@pytest.mark.parametrize("slope", [0.0, -1.0, -2.0])
def test_coloured_noise_has_unit_power_and_the_slope_asked_for(slope: float) -> None:
    noise = coloured_noise(np.random.default_rng(3), 160_000, slope)
    assert np.mean(noise**2) == pytest.approx(1.0, abs=1e-3)
    power = np.abs(np.fft.rfft(noise)) ** 2  # bins of 0.1 Hz
    octave = [power[low * 10 : low * 20].mean() for low in (500, 2000)]
    assert np.log(octave[1] / octave[0]) / np.log(4) == pytest.approx(slope, abs=0.1)


@pytest.mark.parametrize("rt60_s", [0.05, 0.4, 1.0])
def test_a_room_starts_with_the_direct_path_has_unit_energy_and_dies_away(rt60_s: float) -> None:
    response = room_response(np.random.default_rng(4), rt60_s)
    assert np.sum(response**2) == pytest.approx(1.0, abs=1e-5)
    assert response[0] ** 2 >= 0.149
    assert np.argmax(response != 0) == 0
    assert np.sum(response[len(response) // 2 :] ** 2) < 0.02


def test_applause_is_noisier_than_music_and_crying_more_voiced_than_breath() -> None:
    def flatness(kind: str) -> float:
        sounds = [make_event(kind, np.random.default_rng(seed), 1.0) for seed in range(12)]
        power = np.array([np.abs(np.fft.rfft(sound))[100:3500] ** 2 for sound in sounds])
        return float(np.median(np.exp(np.log(power + 1e-9).mean(1)) / power.mean(1)))

    assert flatness("Applause") > 2 * flatness("BGM")
    assert flatness("Breath") > 1.5 * flatness("Cry")
