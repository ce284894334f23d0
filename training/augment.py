"""What a microphone, a room and a telephone line do to speech, for a whole batch on the GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sensevoice.features import HOP, WINDOW, mel_range, to_hz, to_mel
from sensevoice.spans import SAMPLE_RATE
from training import fused

FRAME_SAMPLES = 960  # one output frame is 60 ms
ROOM_SAMPLES = 12_000  # of a room's response
SLOWEST, FASTEST = 0.86, 1.2
SPEEDS = 16
WIDEST_WARP = 0.14  # of a vocal tract's length
KNEE_HZ = 4_800.0  # above the formants that tell vowels apart
UNEVENNESS = 0.3  # of the pace within an utterance, at most: a standard deviation of its logarithm
PHONE_FRAMES, PHRASE_FRAMES = 8, 60  # of 10 ms; over which the pace changes
PHRASE_SHARE = 0.6  # of the unevenness, in the pace of phrases


@dataclass
class SoundBank:
    """Sounds to mix in, each [count, samples] float32 with a root mean square of one."""

    noises: Tensor
    music: Tensor
    rooms: Tensor  # impulse responses of unit energy, direct sound first
    spectra: dict[int, Tensor] = field(default_factory=dict)

    def room_spectra(self, points: int) -> Tensor:
        """The rooms' spectra and, last, that of the open air, [count + 1, points // 2 + 1]; made once for a size."""
        if points not in self.spectra:
            open_air = torch.zeros_like(self.rooms[:1])
            open_air[:, 0] = 1.0
            self.spectra[points] = torch.fft.rfft(torch.cat([self.rooms, open_air]), n=points)
        return self.spectra[points]


@dataclass(frozen=True)
class RowShape:
    """The size of a batch: as few different ones as there are `ROW_SECONDS`, so that each can be captured."""

    items: int
    frames: int  # of 60 ms

    @property
    def samples(self) -> int:
        """Samples of a row: its last frame is made of six windows, as all are."""
        return self.frames * FRAME_SAMPLES + WINDOW - HOP

    @property
    def points(self) -> int:
        """Samples of its spectra: the row, and the tail of any room."""
        return quick_size(self.samples + ROOM_SAMPLES, 2)

    def sources(self) -> list[int]:
        """What `points` may have been before a change of speed: quick sizes between the slowest and the fastest."""
        speeds = [SLOWEST + (FASTEST - SLOWEST) * step / SPEEDS for step in range(SPEEDS)]
        sizes = (quick_size(math.ceil(self.points * speed), 2) for speed in speeds)
        return [size for size in sizes if size <= FASTEST * self.points]


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the host's, copied without waiting."""
    pinned = values.pin_memory() if device.type == "cuda" and values.numel() else values
    return pinned.to(device, non_blocking=True)


def _chance(count: int, probability: float, device: torch.device) -> Tensor:
    return torch.rand(count, device=device) < probability


def _uniform(count: int, low: float, high: float, device: torch.device) -> Tensor:
    return torch.rand(count, device=device) * (high - low) + low


def level(samples: Tensor) -> Tensor:
    """Root mean square of each row, [batch, 1]."""
    return samples.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-5)


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


def filtered(sources: Tensor, shape: RowShape, bank: SoundBank, strength: float) -> Tensor:
    """Change of speed, room, smooth equaliser and band limits in one multiplication of spectra.

    sources: [items, points], of which `shape.points` are made: pitch, formants and pace change together.
    Returns [items, shape.samples].
    """
    batch, points = sources.shape
    bins = min(points, shape.points) // 2 + 1
    gains = _gains(batch, shape.points // 2 + 1, strength, sources.device)[:, :bins]
    spectrum = torch.fft.rfft(sources)[:, :bins] * _in_rooms(batch, shape.points, bank, strength)[:, :bins]
    spectrum *= gains * (shape.points / points)
    return torch.fft.irfft(spectrum, n=shape.points)[:, : shape.samples]


def _in_rooms(batch: int, points: int, bank: SoundBank, strength: float) -> Tensor:
    """The spectra of rooms, or of the open air, [batch, bins]."""
    rooms = torch.randint(len(bank.rooms), (batch,), device=bank.rooms.device)
    open_air = len(bank.rooms)  # the last row of the spectra
    chosen = torch.where(_chance(batch, 0.35 * strength, rooms.device), rooms, open_air)
    return bank.room_spectra(points)[chosen]


def _gains(batch: int, bins: int, strength: float, device: torch.device) -> Tensor:
    """A smooth equaliser's gains within a microphone's band, [batch, bins]."""
    exponents = torch.randn(batch, 1, 9, device=device) * (4.0 * strength * math.log(10) / 20)
    curve = F.interpolate(exponents, size=bins, mode="linear", align_corners=True)[:, 0].exp_()
    return curve.mul_(_band(batch, bins, strength, device))


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


NOISE, MUSIC, BABBLE = range(3)
TALKERS = 4


def with_noise(samples: Tensor, bank: SoundBank, strength: float) -> Tensor:
    """Add noise, music or the talk of other rows, [batch, samples], at 2 to 36 dB below; none to a quarter."""
    batch = len(samples)
    device = samples.device
    dice = torch.rand(batch, device=device)
    kind = (dice >= 0.6).long() + (dice >= 0.8).long()
    snr_db = _uniform(batch, 30 - 28 * strength, 36, device)
    snr_db = torch.where(kind == MUSIC, snr_db.clamp_min(14), snr_db)  # louder music has a tag of its own
    loudness = level(samples)[:, 0]
    rows = _drawn_rows(kind, bank)
    added = torch.where(kind == BABBLE, loudness[rows % batch].square().sum(1).sqrt(), 1.0)
    gain = loudness / added * 10 ** (-snr_db / 20) * _chance(batch, 0.75, device)
    start = torch.randint(max(bank.noises.shape[1], bank.music.shape[1]), (batch,), device=device)
    return mixed(samples, bank.noises, bank.music, kind, rows, start, gain)


def _drawn_rows(kind: Tensor, bank: SoundBank) -> Tensor:
    """Which sound of the bank (the first column), or which other rows talk: [batch, TALKERS]."""
    batch = len(kind)
    chances = torch.rand(batch, TALKERS, device=kind.device)
    others = 1 + (chances * (batch - 1)).long()
    talking = (torch.arange(batch, device=kind.device)[:, None] + others) % batch
    noise, music = ((chances * len(sounds)).long() for sounds in (bank.noises, bank.music))
    return torch.where(
        (kind == BABBLE)[:, None], talking, torch.where((kind == MUSIC)[:, None], music, noise)
    )


def mixed(
    samples: Tensor, noises: Tensor, music: Tensor, kind: Tensor, rows: Tensor, start: Tensor, gain: Tensor
) -> Tensor:
    """Add to each row of samples, [batch, samples], its gain times a sound.

    kind [batch]: row `rows[:, 0]` of the noises or of the music, repeated from `start` on, or the sum of
    `rows` [batch, talkers] of the samples.
    """
    if fused.usable(samples):
        return fused.mixed(samples, noises, music, kind, rows, start, gain)
    columns = start[:, None] + torch.arange(samples.shape[1], device=samples.device)
    added = samples[rows % len(samples)].sum(1)  # those of other kinds are not heard
    for number, bank in ((NOISE, noises), (MUSIC, music)):
        chosen = (kind == number).nonzero()[:, 0]
        added[chosen] = bank[rows[chosen, :1], columns[chosen] % bank.shape[1]]
    return samples + gain[:, None] * added


def recorded(samples: Tensor, strength: float) -> Tensor:
    """Level, clipping, coarse quantisation and hiss of a recording."""
    batch = len(samples)
    device = samples.device
    peak = torch.linalg.vector_norm(samples, torch.inf, dim=1).clamp_min(1e-4)
    ceiling = 10 ** (_uniform(batch, -26, -1, device) / 20)
    drive = torch.where(_chance(batch, 0.06 * strength, device), _uniform(batch, 1.5, 5, device), 1.0)
    clipped = samples * (ceiling / peak * drive)[:, None]
    clipped = clipped.clamp_(-ceiling[:, None], ceiling[:, None])
    coarse = on_device((torch.rand(batch) < 0.06 * strength).nonzero()[:, 0], device)  # drawn on the host
    clipped[coarse] = _mu_law(clipped[coarse])
    hiss = 10 ** (_uniform(batch, -90, -60, device) / 20)
    return clipped.addcmul_(torch.randn_like(clipped), hiss[:, None]).clamp_(-1, 1)


def _mu_law(samples: Tensor) -> Tensor:
    """Through an 8-bit logarithmic telephone codec and back."""
    squeezed = samples.sign() * torch.log1p(255 * samples.abs()) / 5.545177
    coarse = (squeezed * 128).round() / 128
    return coarse.sign() * torch.expm1(coarse.abs() * 5.545177) / 255


def warped(mel: Tensor, strength: float) -> Tensor:
    """Shift each utterance's formants by up to a seventh, as if its vocal tract were shorter or longer.

    mel: [batch, frames, mels]. Pitch and pace stay what they are.
    """
    factors = 1 + _uniform(len(mel), -WIDEST_WARP, WIDEST_WARP, mel.device) * strength
    return of_tracts(mel, factors)


def of_tracts(mel: Tensor, factors: Tensor) -> Tensor:
    """What vocal tracts `factors` as long would have made: log mel energies, [batch, frames, mels].

    Vocal tract length perturbation (https://www.cs.toronto.edu/~ndjaitly/jaitly-icml13.pdf), read between the filters
    there are: they overlap by half, so that this is within 1.0 to 1.4 dB (root mean square) of filters that are warped
    themselves, where the warp changes 5 to 9 dB.
    """
    mels = mel.shape[2]
    at = _mel_bins(_before_warp(_mel_hz(mels, mel.device), factors[:, None]), mels).clamp(0, mels - 1)
    return _between(mel, at[:, None], 2)


def _between(values: Tensor, at: Tensor, dim: int) -> Tensor:
    """Values [...] read along a dimension at places in fractions, which are the same along dimensions of size one."""
    low = at.long().clamp(0, values.shape[dim] - 2)
    index = low.expand_as(values)
    return torch.lerp(values.gather(dim, index), values.gather(dim, index + 1), at - low)


def _before_warp(hz: Tensor, factors: Tensor) -> Tensor:
    """Where what is heard at `hz` was: `factors` times as high up to a knee, and the highest frequency stays."""
    highest = SAMPLE_RATE / 2
    knee = KNEE_HZ / factors.clamp_min(1)
    beyond = highest - (highest - hz) * (highest - factors * knee) / (highest - knee)
    return torch.where(hz <= knee, factors * hz, beyond)


def _mel_hz(mels: int, device: torch.device) -> Tensor:
    """The centre frequencies of the frontend's filters, [mels]."""
    low, high = mel_range()
    return to_hz(low + (high - low) * torch.arange(1, mels + 1, device=device) / (mels + 1))


def _mel_bins(hz: Tensor, mels: int) -> Tensor:
    """The filter, in fractions, that is centred on a frequency."""
    low, high = mel_range()
    return (to_mel(hz) - low) / (high - low) * (mels + 1) - 1


def drawn_rhythms(items: int, frames: int, strength: float, device: torch.device) -> Tensor:
    """When what is heard in each frame of 10 ms was said: [items, frames], from frame 0 to the last, ever later.

    A synthesiser gives each phoneme the length that it mostly has, and every sentence one pace; people rush and dwell.
    """
    unevenness = _uniform(items, 0, UNEVENNESS * strength, device)[:, None]
    phones, phrases = (_walks(items, frames, knot, device) for knot in (PHONE_FRAMES, PHRASE_FRAMES))
    paces = (unevenness * (phones + PHRASE_SHARE * phrases)).exp_()
    times = paces.cumsum(1) - paces[:, :1]
    return times * ((frames - 1) / times[:, -1:])


def _walks(items: int, frames: int, knot: int, device: torch.device) -> Tensor:
    """Random values every `knot` frames, and straight lines between them: [items, frames]."""
    knots = torch.randn(items, 1, frames // knot + 2, device=device)
    return F.interpolate(knots, size=frames, mode="linear", align_corners=True)[:, 0]


def in_rhythm(mel: Tensor, times: Tensor) -> Tensor:
    """Frames said at these times, [batch, frames], read between the frames there are, [batch, frames, mels]."""
    return _between(mel, times[:, :, None], 1)


def labels_in_rhythm(labels: Tensor, times: Tensor) -> Tensor:
    """What is known of evenly spaced moments, [batch, stacked frames, probes], at the times of all 10 ms frames."""
    moments = labels.shape[1] * labels.shape[2]
    spacing = times.shape[1] // moments
    index = (times[:, ::spacing] / spacing).round().long().clamp_max(moments - 1)
    return labels.flatten(1).gather(1, index).view_as(labels)


def augment(sources: Tensor, shape: RowShape, bank: SoundBank, strength: float) -> Tensor:
    """The whole chain, [items, points] -> [items, shape.samples]; `strength` grows from 0 (almost clean) to 1.

    Noise and hiss are heard to the end of a row, whatever it holds: nothing is padded.
    """
    wet = filtered(sources, shape, bank, strength)
    return recorded(with_noise(wet, bank, strength), strength)
