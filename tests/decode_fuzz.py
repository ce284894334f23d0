"""What no recorder ever wrote, for the decoder: `PYTHONPATH=. python tests/decode_fuzz.py 10000`.

Case n is the same whenever it is made: noise, samples of every format cut short, with bits flipped, with pieces
missing, doubled or of another file, with numbers in their headers that lie, and recordings of hours in a few
kilobytes. A process of its own decodes them, so that a crash or a hang of the native code is seen, and is
replaced if it ends. Each case must end as a recording or as one of our errors, within 5 s of the processor's
time and 160 MB of memory. Exit code 1 if one does not; `--case n` tries one alone.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import random
import resource
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import clips
import numpy as np

from sensevoice.audio import LARGEST_ALLOCATION_BYTES, decode_blocks
from sensevoice.errors import AudioError

MAX_DURATION_S = 60.0
CPU_LIMIT_S = 5.0
WALL_LIMIT_S = 60.0  # for what hangs without working; generous, since other processes may be at work too
MEMORY_LIMIT_BYTES = LARGEST_ALLOCATION_BYTES + 32 * 2**20
ADDRESSES_LIMIT_BYTES = 2**30  # ends what would take the whole machine
POLL_S = 0.2
LARGEST_NOISE = 20_000
HEADER_BYTES = 512
WHOLE, LIVE = "whole", "live"
EXTREMES = (0, 1, 2, 255, 1_000, 0x7FFF, 0xFFFF, 10**9, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)


# Samples ------------------------------------------------------------------------------------------


@cache
def samples() -> tuple[bytes, ...]:
    """A short recording in every format that we make, and some files that are none."""
    spoken = [clips.clip(name) for name in clips.FORMATS]
    many = [clips.clip(name, seconds=0.3, channels=6) for name in ("wav 16 bit", "flac", "m4a", "ogg opus")]
    moving = [clips.video(container, seconds=0.3) for container in ("mp4", "matroska", "avi", "mpegts")]
    plain = [clips.Format("au", "pcm_s16be", ".au"), clips.Format("caf", "pcm_s16le", ".caf")]
    plain += [clips.Format("w64", "pcm_s16le", ".w64"), clips.Format("wav", "adpcm_ima_wav", ".wav")]
    lists = [b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n"]
    others = [clips.encode(clips.tone(0.3), 44_100, form) for form in plain]
    others += [clips.encode(clips.tone(0.3), 16_000, form) for form in ("wav 16 bit", "wav float")]
    return (*spoken, *many, *moving, *others, clips.picture(), *lists, *bombs())


def bombs() -> Iterator[bytes]:
    """Hours of silence in a few kilobytes, whether or not the header says so."""
    flac = clips.encode(np.zeros(1_800 * 8_000, np.int16), 8_000, "flac")
    yield flac
    at = flac.index(b"fLaC") + 8 + 13
    yield flac[:at] + bytes([flac[at] & 0xF0]) + bytes(4) + flac[at + 5 :]  # of unknown length
    opus = clips.encode(np.zeros(600 * 48_000, np.int16), 48_000, "ogg opus")
    yield opus
    yield opus * 3  # chained
    wav = clips.pcm_wav(np.zeros(2_000, np.int16))
    text = b"LIST\xff\xff\xff\x7fINFOISFT\0\0\xff\x7f"  # a text of 2 GB
    yield wav[:36] + text + wav[36:]
    yield wav[:40] + b"\xff" * 4 + bytes(4_000)
    yield clips.encode(np.zeros(600 * 8_000, np.int16), 8_000, "wav a-law")


# Cases --------------------------------------------------------------------------------------------


def noise(dice: random.Random) -> bytes:
    """Anything, or anything after the first bytes of a format."""
    head = dice.choice(samples())[: dice.choice((4, 8, 12, 64, 512))] if dice.random() < 0.7 else b""
    return head + dice.randbytes(dice.randrange(1, LARGEST_NOISE))


def truncated(dice: random.Random) -> bytes:
    """A sample without its end."""
    data = dice.choice(samples())
    return data[: dice.randrange(len(data))]


def flipped(dice: random.Random) -> bytes:
    """Some bits of a sample turned over."""
    return _with_flips(dice, dice.choice(samples()), None)


def flipped_head(dice: random.Random) -> bytes:
    """Some bits of a sample's header turned over."""
    return _with_flips(dice, dice.choice(samples()), HEADER_BYTES)


def _with_flips(dice: random.Random, data: bytes, within: int | None) -> bytes:
    changed, end = bytearray(data), min(within or len(data), len(data))
    for _ in range(dice.choice((1, 2, 8, 64))):
        changed[dice.randrange(end)] ^= 1 << dice.randrange(8)
    return bytes(changed)


def patched(dice: random.Random) -> bytes:
    """A piece of a sample missing, doubled, blank, or replaced by a piece of another."""
    data, other = dice.choice(samples()), dice.choice(samples())
    start, size = dice.randrange(len(data)), dice.choice((1, 4, 16, 256, 4_096))
    piece = data[start : start + size]
    elsewhere = dice.randrange(len(other))
    new = dice.choice((b"", piece * 3, bytes(size), b"\xff" * size, other[elsewhere : elsewhere + size]))
    return data[:start] + new + data[start + size :]


def spliced(dice: random.Random) -> bytes:
    """The beginning of one sample and the end of another."""
    one, two = dice.choice(samples()), dice.choice(samples())
    return one[: dice.randrange(len(one))] + two[dice.randrange(len(two)) :]


def lying(dice: random.Random) -> bytes:
    """A sample whose header holds other numbers: hours, 1 GHz, 1,000 channels, nothing at all."""
    changed = bytearray(dice.choice(samples()))
    for _ in range(dice.choice((1, 1, 2, 4))):
        size, order = dice.choice((1, 2, 4, 8)), dice.choice(("little", "big"))
        value = dice.choice(EXTREMES) % 256**size
        at = dice.randrange(max(1, min(HEADER_BYTES, len(changed)) - size))
        changed[at : at + size] = value.to_bytes(size, order)  # type: ignore[arg-type]
    return bytes(changed)


def lying_wav(dice: random.Random) -> bytes:
    """A wav whose every number may lie."""
    data = bytearray(clips.pcm_wav(np.zeros(2_000, np.int16)))
    fields = {16: 4, 20: 2, 22: 2, 24: 4, 28: 4, 32: 2, 34: 2, 40: 4}  # place of each number: its size
    for at in dice.sample(sorted(fields), dice.randrange(1, len(fields))):
        value = dice.choice(EXTREMES) if dice.random() < 0.8 else dice.randrange(2**32)
        data[at : at + fields[at]] = (value % 256 ** fields[at]).to_bytes(fields[at], "little")
    return bytes(data)


def lying_mp4(dice: random.Random) -> bytes:
    """An m4a or mp4 whose tables (times, sizes, chunks) count what is not there."""
    data = bytearray(dice.choice([one for one in samples() if one[4:8] == b"ftyp"]))
    names = [
        b"mvhd",
        b"tkhd",
        b"mdhd",
        b"stsd",
        b"stts",
        b"stsc",
        b"stsz",
        b"stco",
        b"mp4a",
        b"esds",
        b"elst",
    ]
    for name in dice.sample(names, dice.randrange(1, 4)):
        at = data.find(name)
        if at >= 0:
            place = at + 4 * dice.randrange(1, 8)
            data[place : place + 4] = dice.choice(EXTREMES).to_bytes(4, "big")
    return bytes(data)


KINDS: Sequence[Callable[[random.Random], bytes]] = (
    *(noise, truncated, flipped, flipped_head, patched),
    *(spliced, lying, lying, lying_wav, lying_mp4),
)


def case(number: int) -> bytes:
    """The file of this number: first the samples as they are."""
    if number < len(samples()):
        return samples()[number]
    return KINDS[number % len(KINDS)](random.Random(number))


# The process that decodes -------------------------------------------------------------------------


class Pipe(io.RawIOBase):
    """A file that cannot be rewound, as a live stream's is."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._file.readinto(buffer)


def outcome(data: bytes, way: str) -> str:
    """What becomes of one file: "sound", the name of our error, or a fault in words."""
    source = Pipe(data) if way == LIVE else io.BytesIO(data)
    heard = 0
    try:
        for block in decode_blocks(source, max_duration_s=MAX_DURATION_S, live=way == LIVE):
            if block.dtype != np.float32 or block.ndim != 1 or not np.abs(block).max() <= 1:  # true for NaN
                return "FAULT: a block that is no sound"
            heard += len(block)
    except AudioError as error:
        return type(error).__name__ if str(error) else "FAULT: no sentence"
    except BaseException as error:
        return f"FAULT: {error!r}"
    return "sound" if 0 < heard <= MAX_DURATION_S * 16_000 else f"FAULT: {heard} samples"


def work() -> None:
    """Decode the cases whose numbers come in, and say what became of each."""
    samples()
    outcome(case(1), WHOLE)  # loads what is loaded on first use
    limit = _memory("VmSize") + ADDRESSES_LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print("ready", flush=True)
    for line in sys.stdin:
        number, data = int(line), case(int(line))
        _forget_peak()
        before = _memory("VmRSS")
        ended = outcome(data, LIVE if number // len(KINDS) % 3 == 2 else WHOLE)
        more = _memory("VmHWM") - before
        print(ended if more < MEMORY_LIMIT_BYTES else f"FAULT: {more >> 20} MB more", flush=True)


def _memory(name: str) -> int:
    """One of the bytes in /proc/self/status."""
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(name)]
    return int(line.split()[1]) * 1024


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew: proc(5)


# The process that watches -------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of all cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: dict[int, str] = field(default_factory=dict)
    slowest: tuple[float, int] = (0.0, -1)  # seconds of the processor's time, and the case

    def note(self, number: int, ended: str, cpu_s: float) -> None:
        self.slowest = max(self.slowest, (cpu_s, number))
        if ended.startswith("FAULT"):
            self.faults[number] = ended
        else:
            self.outcomes[ended] += 1

    def lines(self) -> Iterator[str]:
        """As a person reads it."""
        yield ", ".join(f"{count} {name}" for name, count in self.outcomes.most_common())
        yield f"the slowest took {self.slowest[0]:.2f} s of the processor's time: case {self.slowest[1]}"
        yield from (f"case {number}: {fault}" for number, fault in self.faults.items())
        yield f"{len(self.faults)} faults"


class Worker:
    """A process that decodes."""

    def __init__(self, program: Sequence[str] = (__file__, "--work")) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self._process.stdin and self._process.stdout
        self._ask, self._answers = self._process.stdin, self._process.stdout
        assert self._answers.readline() == "ready\n"

    def decode(self, number: int) -> tuple[str, float]:
        """What became of the case, and the processor's time for it; this worker is dead after some faults."""
        start, cpu_start = time.monotonic(), self._cpu_s()
        self._ask.write(f"{number}\n")
        while not select.select([self._answers], [], [], POLL_S)[0]:
            if self._cpu_s() - cpu_start > CPU_LIMIT_S or time.monotonic() - start > WALL_LIMIT_S:
                self.end()
                return "FAULT: it hangs", CPU_LIMIT_S
        cpu_s = self._cpu_s() - cpu_start
        if answer := self._answers.readline().strip():
            return answer, cpu_s
        code = self._process.wait()
        self.end()
        return f"FAULT: the process ended with {code}", cpu_s

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._ask.close()
        self._answers.close()

    def _cpu_s(self) -> float:
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            return math.inf
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fuzz(numbers: Sequence[int], start: Callable[[], Worker] = Worker) -> Tally:
    """Decode these cases one after another."""
    tally, worker = Tally(), start()
    for number in numbers:
        if not worker.lives:
            worker = start()
        tally.note(number, *worker.decode(number))
    worker.end()
    return tally


def main() -> int:
    """Run it, and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("count", type=int, nargs="?", default=10_000)
    parser.add_argument("--case", type=int, help="only this one")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work()
        return 0
    tally = fuzz(range(arguments.count) if arguments.case is None else [arguments.case])
    print("\n".join(tally.lines()))
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
