"""What a microphone, a room and a telephone line do to speech, for a whole batch on the GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sensevoice.features import LOWEST_HZ
from sensevoice.spans import SAMPLE_RATE


@dataclass
class SoundBank:
    """Sounds to mix in, each [count, samples] float32 with a root mean square of one."""

    noises: Tensor
    music: Tensor
    rooms: Tensor  # impulse responses of unit energy, direct sound first


def _chance(count: int, probability: float, device: torch.device) -> Tensor:
    return torch.rand(count, device=device) < probability


def _uniform(count: int, low: float, high: float, device: torch.device) -> Tensor:
    return torch.rand(count, device=device) * (high - low) + low


def level(samples: Tensor) -> Tensor:
    """Root mean square of each row, [batch, 1]."""
    return samples.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-5)


def stretched(samples: Tensor, target: int) -> Tensor:
    """Resample to `target` samples by cutting or padding the spectrum: pitch, formants and pace change together."""
    count = samples.shape[1]
    spectrum = torch.fft.rfft(samples)
    bins = target // 2 + 1
    if bins <= spectrum.shape[1]:
        spectrum = spectrum[:, :bins]
    else:
        spectrum = torch.nn.functional.pad(spectrum, (0, bins - spectrum.shape[1]))
    return torch.fft.irfft(spectrum, n=target) * (target / count)


def quick_size(wanted: int, grid: int) -> int:
    """The next multiple of `grid` whose other factors are 2, 3, 5 and 7: other spectra take far longer."""
    count = -(-wanted // grid)
    while not _is_smooth(count):
        count += 1
    return grid * count


def _is_smooth(number: int) -> bool:
    for factor in (2, 3, 5, 7):
        while number % factor == 0:
            number //= factor
    return number == 1


def filtered(samples: Tensor, bank: SoundBank, strength: float) -> Tensor:
    """Room, smooth equaliser and band limits in one multiplication of spectra."""
    batch, count = samples.shape
    device = samples.device
    size = quick_size(count + bank.rooms.shape[1], 1024)
    spectrum = torch.fft.rfft(samples, n=size)
    bins = spectrum.shape[1]
    rooms = bank.rooms[torch.randint(len(bank.rooms), (batch,), device=device)]
    in_room = _chance(batch, 0.35 * strength, device)
    dry = torch.zeros_like(rooms)
    dry[:, 0] = 1.0
    response = torch.fft.rfft(torch.where(in_room[:, None], rooms, dry), n=size)
    gains_db = torch.randn(batch, 1, 9, device=device) * (4.0 * strength)
    curve = torch.nn.functional.interpolate(gains_db, size=bins, mode="linear", align_corners=True)[:, 0]
    return torch.fft.irfft(
        spectrum * response * (10 ** (curve / 20)) * _band(batch, bins, strength, device), n=size
    )[:, :count]


def _band(batch: int, bins: int, strength: float, device: torch.device) -> Tensor:
    """Soft band limits of telephones and cheap microphones, [batch, bins]."""
    hz = torch.linspace(0, SAMPLE_RATE / 2, bins, device=device)
    phone = _chance(batch, 0.12 * strength, device)
    dull = _chance(batch, 0.15 * strength, device)
    high = torch.where(
        phone, _uniform(batch, 3200, 3700, device), torch.full((batch,), 9000.0, device=device)
    )
    high = torch.where(dull & ~phone, _uniform(batch, 3500, 7500, device), high)
    low = torch.where(phone, _uniform(batch, 200, 350, device), _uniform(batch, 0, 120, device) * strength)
    passed = torch.sigmoid((high[:, None] - hz) / 80) * torch.sigmoid((hz - low[:, None]) / 25)
    return passed.clamp_min(1e-4)


def with_noise(samples: Tensor, speech: Tensor, bank: SoundBank, strength: float) -> Tensor:
    """Add noise, music or other people's talk; `speech`: other utterances to babble with, [any, samples]."""
    batch, count = samples.shape
    device = samples.device
    choice = torch.rand(batch, device=device)
    noise = _cut(bank.noises, batch, count)
    music = _cut(bank.music, batch, count)
    babble = sum(speech[torch.randperm(len(speech), device=device)[:batch]] for _ in range(4))
    babble = babble / level(babble)
    added = torch.where((choice < 0.6)[:, None], noise, torch.where((choice < 0.8)[:, None], music, babble))
    snr_db = _uniform(batch, 38 - 35 * strength, 42, device)
    # louder music has a tag of its own
    snr_db = torch.where((choice >= 0.6) & (choice < 0.8), snr_db.clamp_min(14), snr_db)
    scale = level(samples) * 10 ** (-snr_db[:, None] / 20)
    return samples + added * scale * _chance(batch, 0.75, device)[:, None]


def _cut(bank: Tensor, batch: int, count: int) -> Tensor:
    """Random stretches of the bank's sounds, repeated where they are too short."""
    device = bank.device
    rows = torch.randint(len(bank), (batch, 1), device=device)
    starts = torch.randint(bank.shape[1], (batch, 1), device=device)
    columns = (starts + torch.arange(count, device=device)) % bank.shape[1]
    return bank[rows, columns]


def recorded(samples: Tensor, strength: float) -> Tensor:
    """Level, clipping and coarse quantisation of a recording."""
    batch = len(samples)
    device = samples.device
    peak = samples.abs().amax(dim=1, keepdim=True).clamp_min(1e-4)
    gain_db = _uniform(batch, -26, -1, device)[:, None]
    scaled = samples / peak * 10 ** (gain_db / 20)
    drive = torch.where(_chance(batch, 0.06 * strength, device), _uniform(batch, 1.5, 5, device), 1.0)[
        :, None
    ]
    ceiling = scaled.abs().amax(dim=1, keepdim=True).clamp_min(1e-4)
    clipped = (scaled * drive).clamp(-ceiling, ceiling)
    mu_law = _chance(batch, 0.06 * strength, device)[:, None]
    clipped = torch.where(mu_law, _mu_law(clipped), clipped)
    return (
        clipped + torch.randn_like(clipped) * 10 ** (_uniform(batch, -90, -60, device)[:, None] / 20)
    ).clamp(-1, 1)


def _mu_law(samples: Tensor) -> Tensor:
    """Through an 8-bit logarithmic telephone codec and back."""
    squeezed = samples.sign() * torch.log1p(255 * samples.abs()) / 5.545177
    coarse = (squeezed * 128).round() / 128
    return coarse.sign() * torch.expm1(coarse.abs() * 5.545177) / 255


def warped(mel: Tensor, strength: float) -> Tensor:
    """Shift each utterance's formants by up to a seventh, as if its vocal tract were shorter or longer.

    mel: [batch, frames, mels]. Vocal tract length perturbation on the mel axis, after
    https://www.cs.toronto.edu/~ndjaitly/jaitly-icml13.pdf.
    """
    batch, _, mels = mel.shape
    factors = 1 + _uniform(batch, -0.14, 0.14, mel.device) * strength
    at = _mel_bins(_mel_hz(mels, mel.device)[None] * factors[:, None], mels).clamp(0, mels - 1)
    low = at.long().clamp_max(mels - 2)
    part = (at - low)[:, None]
    below = mel.gather(2, low[:, None].expand_as(mel))
    above = mel.gather(2, (low + 1)[:, None].expand_as(mel))
    return torch.lerp(below, above, part)


def _mel_hz(mels: int, device: torch.device) -> Tensor:
    """The centre frequencies of the frontend's filters."""
    low, high = (1127 * math.log1p(hz / 700) for hz in (LOWEST_HZ, SAMPLE_RATE / 2))
    centres = low + (high - low) * torch.arange(1, mels + 1, device=device) / (mels + 1)
    return 700 * torch.expm1(centres / 1127)


def _mel_bins(hz: Tensor, mels: int) -> Tensor:
    """The filter, in fractions, that is centred on a frequency."""
    low, high = (1127 * math.log1p(edge / 700) for edge in (LOWEST_HZ, SAMPLE_RATE / 2))
    return (1127 * torch.log1p(hz / 700) - low) / (high - low) * (mels + 1) - 1


def augment(samples: Tensor, bank: SoundBank, strength: float) -> Tensor:
    """The whole chain; `strength` grows from 0 (almost clean) to 1."""
    wet = filtered(samples, bank, strength)
    return recorded(with_noise(wet, samples.flip(0), bank, strength), strength)
