"""`python -m benchmarks.offline`: from file to tagged transcript, against FunASR in the same run.

Weights may be random, since speed does not depend on them; a model folder of the official size is
given with --model. Conditions are printed first; seconds are those of the best of --rounds, and no round is
begun once --enough seconds have been timed. Without PyAV, recordings are samples instead of files, and
--speech names a wav to make them of.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks import material, peers
from sensevoice import ctc, pipeline
from sensevoice.audio import decode_blocks
from sensevoice.engine import choose_device
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.options import TranscribeOptions
from sensevoice.pipeline import Transcriber
from sensevoice.utterances import UtteranceCutter

START_UP = """
import sys, time
began = time.perf_counter()
from pathlib import Path
from benchmarks import material
from sensevoice.pipeline import Transcriber
imported = time.perf_counter()
model, vad, device, precision, speech = sys.argv[1:]
transcriber = Transcriber.load_folders(Path(model), Path(vad), device=device, precision=precision)
loaded = time.perf_counter()
clip = material.speech(5, Path(speech) if speech else None)
ready = time.perf_counter()
transcriber.transcribe(clip)
print(imported - began, loaded - imported, time.perf_counter() - ready)
"""


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


def start_up(args: argparse.Namespace, precision: str) -> str:
    """From a new process to the transcript of its first 5 s clip; Python's own start is not in it."""
    folders = [
        str(args.model.resolve()),
        str(args.vad.resolve()),
        args.device,
        precision,
        str(args.speech or ""),
    ]
    run = subprocess.run(
        [sys.executable, "-c", START_UP, *folders], capture_output=True, text=True, check=True
    )
    imports_s, load_s, clip_s = map(float, run.stdout.splitlines()[-1].split())
    return (
        f"from process to first transcript, {precision}: {imports_s + load_s + clip_s:.2f} s "
        f"(imports {imports_s:.2f}, loading {load_s:.2f}, first clip {clip_s:.2f})"
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=STARTER_DIRECTORY)
    parser.add_argument("--vad", type=Path, default=material.STARTER_VAD)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precisions", default="auto", help="comma-separated: fp32,int8,...")
    parser.add_argument("--seconds", default="5,30,120,600,3600")
    parser.add_argument("--formats", default="wav,mp3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--enough", type=float, default=60.0, help="seconds [default: %(default)s]")
    parser.add_argument("--speech", type=Path, help="16-bit mono wav at 16 kHz [default: the example clips]")
    parser.add_argument(
        "--peers", default=",".join(peers.PEERS), help="what else is timed [default: %(default)s]"
    )
    args = parser.parse_args()
    print(material.conditions())
    print(f"model {args.model}, best of {args.rounds} rounds\n")
    precisions = args.precisions.split(",")
    for name in precisions:
        for _ in range(2):  # Triton, and the disk, may know it the second time
            print(start_up(args, name), flush=True)
    others, ours = _peers(args), [_our_engine(args, name) for name in precisions]
    print(
        "\n| audio | engine | seconds | p50 | p95 | RTFx | against FunASR | GPU memory | stages |"
        "\n|---|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for seconds in (float(one) for one in args.seconds.split(",")):
            for form in args.formats.split(",") if material.can_decode() else ["samples"]:
                source: Any = (
                    material.record(Path(folder) / f"clip.{form}", seconds, args.speech)
                    if material.can_decode()
                    else material.speech(seconds, args.speech)
                )
                _compare(f"{seconds:g} s {form}", source, seconds, [*others, *ours], args)
    print(f"\npeak host memory: {material.peak_host_mb():.0f} MB in all")


@dataclass(frozen=True)
class _Timed:
    """An engine, and what is known of it so far."""

    name: str
    transcribe: peers.Peer
    memory: material.GpuMemory
    shares: dict[str, float]  # seconds of its stages, as far as it tells


def _peers(args: argparse.Namespace) -> list[_Timed]:
    """Those that were asked for and are installed."""
    found = []
    device = "cpu" if choose_device(args.device).type == "cpu" else "cuda:0"
    for name in filter(None, args.peers.split(",")):
        memory = material.GpuMemory()
        try:
            peer = memory.watch(partial(peers.PEERS[name], args.model, args.vad, device))
        except ImportError as error:
            print(f"{name} is left out: {error}")
        else:
            found.append(_Timed(name, _excused(peer), memory, {}))
    return found


class PeerError(RuntimeError):
    """Another engine cannot transcribe a recording: its row says so, and the run goes on."""


def _excused(peer: peers.Peer) -> peers.Peer:
    def transcribe(source: Any) -> object:
        try:
            return peer(source)
        except Exception as error:
            raise PeerError(f"{type(error).__name__}: {error}") from error

    return transcribe


def _our_engine(args: argparse.Namespace, precision: str) -> _Timed:
    memory, shares = material.GpuMemory(), dict[str, float]()
    load = partial(Transcriber.load_folders, args.model, args.vad, device=args.device, precision=precision)
    transcriber = memory.watch(load)

    def transcribe(source: Any) -> object:
        with stage_times(transcriber, shares) as clocked:
            return clocked.transcribe(source, TranscribeOptions())

    return _Timed(f"ours, {precision}", transcribe, memory, shares)


def _compare(
    name: str, source: Any, seconds: float, engines: Sequence[_Timed], args: argparse.Namespace
) -> None:
    funasr_s = None
    for engine in engines:
        engine.shares.clear()
        work = partial(engine.transcribe, source)
        try:
            took_s = engine.memory.watch(partial(material.timings, args.rounds, work, args.enough))
        except PeerError as error:
            print(f"| {name} | {engine.name} | {error} |", flush=True)
            continue
        best_s, p50_s, p95_s = min(took_s), *np.percentile(took_s, [50, 95])
        funasr_s = best_s if engine.name == "funasr" else funasr_s
        ratio = f"{funasr_s / best_s:.1f} x" if funasr_s else ""
        whole = sum(engine.shares.values())
        stages = ", ".join(f"{stage} {value / whole:.0%}" for stage, value in engine.shares.items())
        print(
            f"| {name} | {engine.name} | {best_s:.4f} | {p50_s:.4f} | {p95_s:.4f} | {seconds / best_s:.1f} | "
            f"{ratio} | {engine.memory.peak_mb:.0f} MB | {stages} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
