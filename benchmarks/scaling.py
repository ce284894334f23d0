"""`python -m benchmarks.scaling`: what length costs, and what callers at the same time cost.

Two tables, and a plot of both if matplotlib is installed. Weights may be random: give --model and --vad
folders in the official layout. Without PyAV, recordings are samples instead of wav files, and --speech
names a wav to make them of (`benchmarks/material.py` makes one).
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks import material
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.pipeline import Transcriber

CLIP_S = 10.0
GPU_LENGTHS, CPU_LENGTHS = "60,600,3600,36000", "60,300,600"
GPU_WARM_S, CPU_WARM_S = (1.0, CLIP_S, 90.0, 2_400.0), (1.0, CLIP_S, 90.0)
GPU_CALLERS, CPU_CALLERS = "1,4,16,64,128,256", "1,2,4,8,16"
WARM_CLIPS = 2


class Length(NamedTuple):
    """What one recording of a length took."""

    sound_s: float
    took_s: float
    first_text_s: float
    host_mb: float  # the most that the process has held so far
    gpu_mb: float


class Callers(NamedTuple):
    """What so many callers at once took, each of them sending one clip after another."""

    count: int
    p50_s: float
    p95_s: float
    throughput: float  # seconds of sound a second


def time_length(transcriber: Transcriber, source: Any, sound_s: float) -> Length:
    """Transcribe it once."""
    began, first = time.perf_counter(), []

    def work() -> None:
        for _ in transcriber.transcribe_stream(source):
            if not first:
                first.append(time.perf_counter() - began)

    gpu_mb = material.peak_gpu_mb(work)
    took_s = time.perf_counter() - began
    return Length(sound_s, took_s, first[0] if first else took_s, material.peak_host_mb(), gpu_mb)


def time_callers(transcriber: Transcriber, clip: Any, count: int, clips: int) -> Callers:
    """Let so many threads send `clips` clips each."""
    took_s: list[float] = []
    start = threading.Barrier(count + 1)

    def call() -> None:
        start.wait()
        for _ in range(clips):
            took_s.append(material.timed(lambda: transcriber.transcribe(clip)))

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    passed_s = time.perf_counter() - began
    p50_s, p95_s = np.percentile(took_s, [50, 95])
    return Callers(count, float(p50_s), float(p95_s), CLIP_S * count * clips / passed_s)


def measure_lengths(
    transcriber: Transcriber, lengths_s: Sequence[float], speech: Path | None
) -> list[Length]:
    """Print the table row by row."""
    print("| recording | seconds | RTFx | first text after | peak host memory | peak GPU memory |")
    print("|---|---|---|---|---|---|")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for sound_s in lengths_s:
            source: Any = (
                material.record(Path(folder) / "recording.wav", sound_s, speech)
                if material.can_decode()
                else material.speech(sound_s, speech)
            )
            row = time_length(transcriber, source, sound_s)
            rows.append(row)
            print(
                f"| {sound_s / 60:g} min | {row.took_s:.3f} | {sound_s / row.took_s:.0f} | "
                f"{row.first_text_s:.3f} s | {row.host_mb:.0f} MB | {row.gpu_mb:.0f} MB |",
                flush=True,
            )
    return rows


def measure_callers(
    transcriber: Transcriber, counts: Sequence[int], clips: int, speech: Path | None
) -> list[Callers]:
    """Print the table row by row."""
    print(f"\n| callers of {CLIP_S:g} s clips | p50 | p95 | seconds of sound a second |\n|---|---|---|---|")
    clip = material.speech(CLIP_S, speech)
    rows = []
    for count in counts:
        time_callers(transcriber, clip, count, WARM_CLIPS)  # batches of these sizes need graphs
        row = time_callers(transcriber, clip, count, clips)
        rows.append(row)
        print(f"| {count} | {row.p50_s:.3f} s | {row.p95_s:.3f} s | {row.throughput:.0f} |", flush=True)
    return rows


def plot(lengths: Sequence[Length], callers: Sequence[Callers], path: Path) -> None:
    """Both tables as one picture."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print("\nno plot: matplotlib is not installed")
        return
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    minutes = [row.sound_s / 60 for row in lengths]
    left.loglog(minutes, [row.took_s for row in lengths], "o-", label="all of it")
    left.loglog(minutes, [row.first_text_s for row in lengths], "s--", label="first text")
    left.set(xlabel="length of the recording, minutes", ylabel="seconds", title="one recording")
    counts = [row.count for row in callers]
    right.semilogx(counts, [row.throughput for row in callers], "o-", color="tab:green")
    right.set(xlabel="callers at once", ylabel="seconds of sound a second", title="clips of 10 s")
    delay = right.twinx()
    delay.semilogx(counts, [row.p95_s for row in callers], "s--", color="tab:red", label="p95")
    delay.set_ylabel("p95, seconds", color="tab:red")
    delay.set_ylim(bottom=0)
    right.set_ylim(bottom=0)
    left.legend()
    for axes in (left, right):
        axes.grid(True, alpha=0.3)
    figure.suptitle(material.conditions(), fontsize=8)
    figure.savefig(path, dpi=120)
    print(f"\n{path}")


def main() -> None:
    """Print two tables and draw them."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=STARTER_DIRECTORY)
    parser.add_argument("--vad", type=Path, default=material.STARTER_VAD)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--lengths", default=GPU_LENGTHS if gpu else CPU_LENGTHS, help="seconds")
    parser.add_argument("--callers", default=GPU_CALLERS if gpu else CPU_CALLERS)
    parser.add_argument("--clips", type=int, default=4, help="that each caller sends")
    parser.add_argument("--speech", type=Path, help="16-bit mono wav at 16 kHz [default: the example clips]")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/scaling.png"))
    args = parser.parse_args()
    print(material.conditions())
    print(f"model {args.model}, precision {args.precision}\n")
    transcriber = Transcriber.load_folders(args.model, args.vad, device=args.device, precision=args.precision)
    for warm_s in GPU_WARM_S if gpu else CPU_WARM_S:
        transcriber.transcribe(material.speech(warm_s, args.speech))
    lengths = measure_lengths(transcriber, [float(one) for one in args.lengths.split(",")], args.speech)
    callers = measure_callers(
        transcriber, [int(one) for one in args.callers.split(",")], args.clips, args.speech
    )
    plot(lengths, callers, args.out)


if __name__ == "__main__":
    main()
