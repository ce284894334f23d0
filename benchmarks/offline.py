"""`python -m benchmarks.offline`: from file to tagged transcript, against FunASR in the same run.

Weights may be random, since speed does not depend on them; a model folder of the official size is
given with --model. Each figure is the best of --rounds; conditions are printed first. Without PyAV,
recordings are samples instead of files, and --speech names a wav to make them of.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks import material, peers
from benchmarks.material import best_of
from sensevoice import ctc, pipeline
from sensevoice.audio import decode_blocks
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.options import TranscribeOptions
from sensevoice.pipeline import Transcriber
from sensevoice.utterances import UtteranceCutter

START_UP = """
import sys, time
began = time.perf_counter()
from pathlib import Path
from benchmarks import material
transcriber = material.load(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
speech = Path(sys.argv[5]) if sys.argv[5] else None
clip = material.speech(5, speech)
transcriber.transcribe(clip)
print(f"{time.perf_counter() - began:.2f}")
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


def start_up_s(args: argparse.Namespace, precision: str) -> float:
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
    return float(run.stdout.splitlines()[-1])


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
    parser.add_argument("--speech", type=Path, help="16-bit mono wav at 16 kHz [default: the example clips]")
    parser.add_argument(
        "--peers", default=",".join(peers.PEERS), help="what else is timed [default: %(default)s]"
    )
    args = parser.parse_args()
    print(material.conditions())
    print(f"model {args.model}, best of {args.rounds} rounds\n")
    ours = {
        name: material.load(args.model, args.vad, args.device, name) for name in args.precisions.split(",")
    }
    for name in ours:
        print(f"from process to first transcript, {name}: {start_up_s(args, name):.1f} s")
    device = "cpu" if next(iter(ours.values())).engine.device == "cpu" else "cuda:0"
    others = _peers(args, device)
    print("\n| audio | engine | seconds | RTFx | against FunASR | stages |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for seconds in (float(one) for one in args.seconds.split(",")):
            for form in args.formats.split(",") if material.can_decode() else ["samples"]:
                source: Any = material.speech(seconds, args.speech)
                if material.can_decode():
                    source = material.write(Path(folder) / f"clip.{form}", source)
                _compare(f"{seconds:g} s {form}", source, seconds, ours, others, args.rounds)
        gpu_mb = max(material.peak_gpu_mb(lambda one=one: one.transcribe(source)) for one in ours.values())
    print(f"\npeak memory: host {material.peak_host_mb():.0f} MB in all, GPU {gpu_mb:.0f} MB on the longest")


def _peers(args: argparse.Namespace, device: str) -> dict[str, peers.Peer]:
    """Those that were asked for and are installed."""
    found = {}
    for name in filter(None, args.peers.split(",")):
        try:
            found[name] = peers.PEERS[name](args.model, args.vad, device)
        except ImportError as error:
            print(f"{name} is left out: {error.name} is not installed")
    return found


def _compare(
    name: str,
    source: Any,
    seconds: float,
    ours: dict[str, Transcriber],
    others: dict[str, peers.Peer],
    rounds: int,
) -> None:
    funasr_s = None
    for other, work in others.items():
        took_s = best_of(rounds, partial(work, source))
        funasr_s = took_s if other == "funasr" else funasr_s
        print(f"| {name} | {other} | {took_s:.3f} | {seconds / took_s:.1f} | | |", flush=True)
    for precision, transcriber in ours.items():
        shares: dict[str, float] = {}
        with stage_times(transcriber, shares) as clocked:
            ours_s = best_of(rounds, partial(clocked.transcribe, source, TranscribeOptions()))
        spent = ", ".join(f"{stage} {value / sum(shares.values()):.0%}" for stage, value in shares.items())
        ratio = f"{funasr_s / ours_s:.1f} x" if funasr_s else ""
        row = f"| {name} | ours, {precision} | {ours_s:.3f} | {seconds / ours_s:.1f} | {ratio} | {spent} |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
