"""What is timed, and how: speech of any length, files of it, conditions, clocks.

PyAV may be absent, as on bare GPU machines: recordings are then given as samples. `python -m
benchmarks.material speech.wav`, where PyAV is, makes the speech that such a machine reads with --speech.
"""

from __future__ import annotations

import platform
import resource
import sys
import time
import wave
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import MagicMock

import numpy as np
import numpy.typing as npt
import torch

try:
    import av
except ImportError:  # whatever the program imports of it, a recording that is samples needs none of it
    av = None
    for module in ("", ".error", ".audio", ".audio.frame", ".audio.layout", ".audio.stream"):
        sys.modules[f"av{module}"] = MagicMock()
    for module in ("container", "filter", "packet"):
        sys.modules[f"av.{module}"] = MagicMock()

from sensevoice.audio import SAMPLE_RATE, decode
from sensevoice.hub import STARTER_DIRECTORY

Samples = npt.NDArray[np.float32]
Found = TypeVar("Found")

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
STARTER_VAD = STARTER_DIRECTORY / "vad"
CODECS = {"wav": "pcm_s16le", "mp3": "libmp3lame"}


def can_decode() -> bool:
    """Whether files can be read and written here."""
    return av is not None


@cache
def examples() -> Samples:
    """The example clips one after another, with a second's pause after each: [samples]."""
    pause = np.zeros(SAMPLE_RATE, np.float32)
    return np.concatenate([part for path in sorted(EXAMPLES.glob("*.mp3")) for part in (decode(path), pause)])


def speech(seconds: float, source: Path | None = None) -> Samples:
    """The examples, or a 16-bit mono wav at 16 kHz, over and over until the time is filled: [samples]."""
    sound = examples() if source is None else read_wav(source)
    return np.resize(sound, int(seconds * SAMPLE_RATE))


def read_wav(path: Path) -> Samples:
    """[samples] of a 16-bit mono wav at 16 kHz."""
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (SAMPLE_RATE, 1, 2):
            raise SystemExit(f"{path}: a 16-bit mono wav at 16 kHz is needed")
        return np.frombuffer(file.readframes(-1), "<i2").astype(np.float32) / 32_768


def record(path: Path, seconds: float, source: Path | None = None) -> Path:
    """A file of that `speech`, encoded as the path's suffix says; a wav is never held whole in memory."""
    if path.suffix != ".wav":
        return write(path, speech(seconds, source))
    once = _pcm(examples() if source is None else read_wav(source)).tobytes()
    size = 2 * int(seconds * SAMPLE_RATE)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        for start in range(0, size, len(once)):
            file.writeframesraw(once[: size - start])
    return path


def _pcm(samples: Samples) -> npt.NDArray[np.int16]:
    return (samples * 32_767).astype(np.int16)


def write(path: Path, samples: Samples) -> Path:
    """Encode as the path's suffix says."""
    pcm = _pcm(samples)[None]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(CODECS[path.suffix[1:]], rate=SAMPLE_RATE, layout="mono")
        planar = stream.codec_context.format.is_planar
        for start in range(0, pcm.shape[1], 1152):
            block = np.ascontiguousarray(pcm[:, start : start + 1152])
            frame = av.AudioFrame.from_ndarray(block, format="s16p" if planar else "s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def timings(rounds: int, work: Callable[[], object], enough_s: float) -> list[float]:
    """Seconds of up to so many runs after one to warm up; none is begun once `enough_s` have been timed.

    If the first alone takes so long, it is the only one, and counts.
    """
    first_s = timed(work)
    took_s = [first_s] if first_s >= enough_s else []
    while len(took_s) < rounds and sum(took_s) < enough_s:
        took_s.append(timed(work))
    return took_s


def timed(work: Callable[[], object]) -> float:
    """Seconds that one run takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def peak_host_mb() -> float:
    """The most memory that this process has held so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def peak_gpu_mb(work: Callable[[], object]) -> float:
    """Do it, and say how much memory PyTorch held on the GPUs meanwhile, in MB; 0 without any."""
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    for gpu in gpus:
        torch.cuda.reset_peak_memory_stats(gpu)
    work()
    return sum(torch.cuda.max_memory_reserved(gpu) for gpu in gpus) / 1e6


class GpuMemory:
    """The GPU memory of one engine among others in this process, in MB; 0 without any GPU."""

    def __init__(self) -> None:
        self.kept_mb = 0.0  # what it holds between runs
        self.peak_mb = 0.0

    def watch(self, work: Callable[[], Found]) -> Found:
        """Do what only this engine takes memory for: its loading, too."""
        results: list[Found] = []
        before_mb = _reserved_mb()
        most_mb = peak_gpu_mb(lambda: results.append(work()))
        self.peak_mb = max(self.peak_mb, self.kept_mb + most_mb - before_mb)
        self.kept_mb += _reserved_mb() - before_mb
        return results[0]


def _reserved_mb() -> float:
    """Without what PyTorch only keeps in case it is needed again."""
    if not torch.cuda.is_available():
        return 0.0
    torch.cuda.empty_cache()
    return sum(torch.cuda.memory_reserved(gpu) for gpu in range(torch.cuda.device_count())) / 1e6


def conditions() -> str:
    """What the figures depend on."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    cpu = next(
        (line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")),
        platform.processor(),
    )
    return (
        f"{time.strftime('%Y-%m-%d')}, {cpu}, {torch.get_num_threads()} threads, {gpu}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    write(Path(sys.argv[1]), examples())
