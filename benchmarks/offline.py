"""`python -m benchmarks.offline`: from file to tagged transcript, against FunASR in the same run.

Weights may be random, since speed does not depend on them; a model folder of the official size is
given with --model. Each figure is the best of --rounds; conditions are printed first.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import av
import numpy as np
import numpy.typing as npt
import torch

from sensevoice import ctc, pipeline
from sensevoice.audio import SAMPLE_RATE, decode, decode_blocks
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.options import TranscribeOptions
from sensevoice.pipeline import Transcriber
from sensevoice.scheduler import load_engine
from sensevoice.utterances import UtteranceCutter
from sensevoice.vad import VoiceActivityDetector

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CODECS = {"wav": "pcm_s16le", "mp3": "libmp3lame"}


def speech(seconds: float) -> npt.NDArray[np.float32]:
    """The example clips one after another, with pauses, until the time is filled: [samples]."""
    pause = np.zeros(SAMPLE_RATE, np.float32)
    clips = [part for path in sorted(EXAMPLES.glob("*.mp3")) for part in (decode(path), pause)]
    return np.resize(np.concatenate(clips), int(seconds * SAMPLE_RATE))


def write(path: Path, samples: npt.NDArray[np.float32]) -> Path:
    """Encode as the path's suffix says."""
    pcm = (samples * 32_767).astype(np.int16)[None]
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


def best_of(rounds: int, work: Callable[[], object]) -> float:
    """Seconds of the quickest of so many runs, after one to warm up."""
    work()
    return min(timed(work) for _ in range(rounds))


def timed(work: Callable[[], object]) -> float:
    """Seconds that one run takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@contextmanager
def stage_times(transcriber: Transcriber, shares: dict[str, float]) -> Iterator[Transcriber]:
    """A transcriber whose stages, which overlap, add their seconds to `shares`."""

    def clocked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                shares[name] = shares.get(name, 0.0) + time.perf_counter() - began

        return run

    def clocked_blocks(*args: Any, **kwargs: Any) -> Iterator[Any]:
        following = clocked("decode", partial(next, decode_blocks(*args, **kwargs), None))
        while (block := following()) is not None:
            yield block

    class ClockedCutter(UtteranceCutter):
        add = clocked("vad", UtteranceCutter.add)
        finish = clocked("vad", UtteranceCutter.finish)

    clocked_engine = _Delegate(transcriber.engine)
    clocked_engine.recognise = clocked("features and network", transcriber.engine.recognise)
    with patch.multiple(
        pipeline,
        decode_blocks=clocked_blocks,
        UtteranceCutter=ClockedCutter,
        read_scores=clocked("ctc", ctc.read_scores),
        make_segment=clocked("assembly", pipeline.make_segment),
    ):
        yield replace(transcriber, engine=clocked_engine)  # type: ignore[arg-type]


class _Delegate:
    """Everything as the original has it, but for what is set on this one."""

    def __init__(self, original: object) -> None:
        self.original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


def funasr_model(model: Path, vad: Path, device: str) -> Any:
    """FunASR's AutoModel on the same folders."""
    warnings.simplefilter("ignore")
    from funasr import AutoModel

    return AutoModel(
        model=str(model),
        vad_model=str(vad),
        vad_kwargs={"max_single_segment_time": 30_000, "max_end_silence_time": 800},
        device=device,
        disable_update=True,
        disable_pbar=True,
        log_level="ERROR",
    )


def conditions() -> str:
    """What the figures depend on."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    cpu = next(
        (line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.processor()
    )
    return (
        f"{time.strftime('%Y-%m-%d')}, {cpu}, {torch.get_num_threads()} threads, {gpu}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=STARTER_DIRECTORY)
    parser.add_argument("--vad", type=Path, default=STARTER_DIRECTORY / "vad")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precisions", default="auto", help="comma-separated: fp32,int8,...")
    parser.add_argument("--seconds", default="5,30,120")
    parser.add_argument("--formats", default="wav,mp3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-funasr", action="store_true")
    args = parser.parse_args()
    print(conditions())
    print(f"model {args.model}, best of {args.rounds} rounds\n")
    print("| audio | engine | seconds | RTFx | against FunASR | stages |\n|---|---|---|---|---|---|")
    vad = VoiceActivityDetector.load(args.vad)
    ours = {}
    for precision in args.precisions.split(","):
        checkpoint = pipeline.load_checkpoint(args.model)
        ours[precision] = Transcriber(load_engine(checkpoint, args.device, precision), vad)
    device = "cpu" if ours[precision].engine.device == "cpu" else "cuda:0"
    funasr = None if args.no_funasr else funasr_model(args.model, args.vad, device)
    with tempfile.TemporaryDirectory() as folder:
        for seconds in (float(s) for s in args.seconds.split(",")):
            for form in args.formats.split(","):
                path = write(Path(folder) / f"clip.{form}", speech(seconds))
                _compare(path, seconds, ours, funasr, args.rounds)


def _compare(path: Path, seconds: float, ours: dict[str, Transcriber], funasr: Any, rounds: int) -> None:
    name = f"{seconds:g} s {path.suffix[1:]}"
    theirs_s = None
    if funasr:
        theirs_s = best_of(rounds, lambda: funasr.generate(str(path), cache={}, use_itn=True, batch_size_s=300))
        print(f"| {name} | FunASR | {theirs_s:.3f} | {seconds / theirs_s:.1f} | 1 | |", flush=True)
    for precision, transcriber in ours.items():
        shares: dict[str, float] = {}
        with stage_times(transcriber, shares) as clocked:
            ours_s = best_of(rounds, lambda clocked=clocked: clocked.transcribe(path, TranscribeOptions()))
        spent = ", ".join(f"{stage} {value / sum(shares.values()):.0%}" for stage, value in shares.items())
        ratio = f"{theirs_s / ours_s:.1f} x" if theirs_s else ""
        print(f"| {name} | ours, {precision} | {ours_s:.3f} | {seconds / ours_s:.1f} | {ratio} | {spent} |", flush=True)


if __name__ == "__main__":
    main()
