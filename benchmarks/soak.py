"""`python -m benchmarks.soak`: thousands of requests of every kind, to see what is lost, mixed up or left behind.

A server of its own (the starter, without the page) is asked by many clients at once: `/transcribe`, OpenAI's
endpoint with and without streaming, jobs; what is no recording, and clients that leave in the middle of their
upload. Every reply must be that of its own clip. Meanwhile another process asks `/health`. At the end no upload
may be left, and memory, open files and threads must be about what they were after the first fifth.
Exit code 1 if anything is amiss.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import io
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
import wave
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np

from sensevoice.audio import SAMPLE_RATE, decode

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
LANGUAGES = ("zh", "en", "ja", "ko", "yue")
PATIENCE_S = 600.0
PROBE_EVERY_S = 0.05
GROWTH_LIMIT_MB = 60.0  # of 5,000 requests: 12 kB each would be a leak
WARM_SHARE = 0.2
BYTES_PER_MB = 2**20


@dataclass(frozen=True)
class Usage:
    """What a process holds."""

    rss_mb: float
    files: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        """From /proc."""
        process = Path(f"/proc/{pid}")
        pages = int((process / "statm").read_text().split()[1])
        return cls(
            pages * os.sysconf("SC_PAGE_SIZE") / BYTES_PER_MB,
            len(list((process / "fd").iterdir())),
            len(list((process / "task").iterdir())),
        )


@dataclass
class Report:
    """What came of it."""

    asked: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    took_s: float = 0.0
    audio_s: float = 0.0
    health_ms: list[float] = field(default_factory=list)
    warm: Usage | None = None
    end: Usage | None = None

    def lines(self) -> Iterator[str]:
        """As a person reads it."""
        yield "asked: " + ", ".join(f"{count} {kind}" for kind, count in sorted(self.asked.items()))
        yield f"{self.took_s:.0f} s, {self.audio_s / self.took_s:.0f} seconds of sound a second"
        if self.health_ms:
            p50, p95, p99 = np.percentile(self.health_ms, [50, 95, 99])
            yield (
                f"/health, {len(self.health_ms)} times: p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms, "
                f"longest {max(self.health_ms):.1f} ms"
            )
        yield f"after the first fifth: {self.warm}"
        yield f"at the end:            {self.end}"
        yield from (f"FAULT: {fault}" for fault in self.faults)
        yield "nothing lost, nothing mixed up, nothing left" if not self.faults else "not well"


@dataclass(frozen=True)
class Clip:
    """A recording and what the model makes of it when it is asked alone."""

    wav: bytes
    seconds: float
    text: str


# The server ---------------------------------------------------------------------------------------


@contextmanager
def server(folder: Path, **settings: str) -> Iterator[tuple[str, int]]:
    """Address and process id of a service with the starter that keeps everything in `folder`."""
    chosen = {"model": "starter", "offline": "1", "log_level": "warning", "queue_length": "1024", **settings}
    chosen |= {"spool_dir": str(folder / "spool"), "job_dir": str(folder / "jobs")}
    environment = {**os.environ, **{f"SENSEVOICE_{name.upper()}": value for name, value in chosen.items()}}
    command = [sys.executable, "-m", "sensevoice", "serve", "--no-ui", "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            address = re.search(r"http://[\d.:]+", process.stdout.readline())
            assert address, "the server did not start"
            yield address[0], process.pid
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def _probe(url: str, asked_ms: Any, stop: Any) -> None:
    """Ask `/health` again and again, in a process of its own, until told to stop."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE_S)
    times: list[float] = []
    while not stop.wait(PROBE_EVERY_S):
        start = time.perf_counter()
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        times.append(1000 * (time.perf_counter() - start))
    asked_ms.put(times)


@contextmanager
def probing(url: str, report: Report) -> Iterator[None]:
    """Measure `/health` as long as the block lasts."""
    context = multiprocessing.get_context("spawn")
    asked_ms, stop = context.Queue(), context.Event()
    process = context.Process(target=_probe, args=(url, asked_ms, stop))
    process.start()
    try:
        yield
    finally:
        stop.set()
        report.health_ms = asked_ms.get()
        process.join()


# The clients --------------------------------------------------------------------------------------


def wav_of(samples: Any) -> bytes:
    """16-bit wav of [n] float32 at 16 kHz."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples * 32_767).astype("<i2").tobytes())
    return buffer.getvalue()


async def clips_of(client: httpx.AsyncClient) -> list[Clip]:
    """Cuts of the examples, each with the text that the service gives when it has nothing else to do."""
    clips = []
    for language in LANGUAGES:
        samples = decode(EXAMPLES / f"{language}.mp3")
        for start_s in (0, 1):
            cut = samples[start_s * SAMPLE_RATE :]
            wav = wav_of(cut)
            clips.append(Clip(wav, len(cut) / SAMPLE_RATE, await transcribe(client, wav)))
    assert len({clip.text for clip in clips}) == len(clips), (
        "the clips must differ, or a mix-up would not show"
    )
    return clips


def _file(content: bytes) -> dict[str, tuple[str, bytes]]:
    return {"file": ("clip.wav", content)}


async def transcribe(client: httpx.AsyncClient, wav: bytes) -> str:
    """The text by `/transcribe`."""
    reply = await client.post("/transcribe", files=_file(wav))
    return str(reply.raise_for_status().json()["text"])


async def openai(client: httpx.AsyncClient, wav: bytes) -> str:
    """The text by OpenAI's endpoint."""
    reply = await client.post("/v1/audio/transcriptions", files=_file(wav), data={"model": "any"})
    return str(reply.raise_for_status().json()["text"])


async def streamed(client: httpx.AsyncClient, wav: bytes) -> str:
    """The text by server-sent events: the deltas, which must agree with the last event."""
    wish = {"model": "any", "stream": "true"}
    reply = await client.post("/v1/audio/transcriptions", files=_file(wav), data=wish)
    data = [line[6:] for line in reply.raise_for_status().text.splitlines() if line.startswith("data: ")]
    events = [json.loads(one) for one in data if one != "[DONE]"]
    deltas = "".join(event.get("delta", "") for event in events)
    return deltas if deltas == events[-1]["text"] else f"deltas {deltas!r}, done {events[-1]['text']!r}"


async def job(client: httpx.AsyncClient, wav: bytes) -> str:
    """The text by a job, which is deleted afterwards."""
    path = f"/v1/jobs/{(await client.post('/v1/jobs', files=_file(wav))).raise_for_status().json()['id']}"
    while (await client.get(path)).raise_for_status().json()["state"] in ("queued", "running"):
        await asyncio.sleep(0.2)
    text = str((await client.get(f"{path}/result")).raise_for_status().json()["text"])
    (await client.delete(path)).raise_for_status()
    return text


async def noise(client: httpx.AsyncClient, wav: bytes) -> str:
    """What the service says to bytes that are no recording: they must be refused with 415."""
    reply = await client.post("/transcribe", files=_file(wav[:40:-1]))
    return str(reply.status_code)


async def leave(client: httpx.AsyncClient, wav: bytes) -> str:
    """Go away in the middle of an upload."""
    address = client.base_url
    _, writer = await asyncio.open_connection(address.host, address.port)
    head = "POST /transcribe HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    part = '--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    writer.write(f"{head}Content-Length: {2 * len(wav)}\r\n\r\n{part}".encode() + wav)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    return "gone"


Ask = Callable[[httpx.AsyncClient, bytes], Awaitable[str]]
TURNS: tuple[Ask, ...] = (
    *(transcribe, openai, transcribe, streamed, transcribe),
    *(noise, transcribe, job, transcribe, leave),
)
FIXED: Mapping[Ask, str] = {noise: "415", leave: "gone"}  # all others: the clip's text


async def ask_all(url: str, pid: int, requests: int, clients: int, report: Report) -> None:
    """Let `clients` at a time ask until all `requests` have been answered."""
    numbers = iter(range(requests))
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=limits) as client:
        clips = await clips_of(client)

        async def serve_one_client() -> None:
            for number in numbers:
                ask, clip = TURNS[number % len(TURNS)], clips[number // len(TURNS) % len(clips)]
                await _check(ask, client, clip, report)
                if number == round(WARM_SHARE * requests):
                    report.warm = Usage.of(pid)

        await asyncio.gather(*(serve_one_client() for _ in range(clients)))


async def _check(ask: Ask, client: httpx.AsyncClient, clip: Clip, report: Report) -> None:
    name, expected = getattr(ask, "__name__", "?"), FIXED.get(ask, clip.text)
    try:
        answer = await ask(client, clip.wav)
    except httpx.HTTPError as error:
        answer = repr(error)
    report.asked[name] += 1
    if answer != expected:
        report.faults.append(f"{name}: {answer!r} instead of {expected!r}")
    elif ask not in FIXED:
        report.audio_s += clip.seconds


def soak(requests: int, clients: int) -> Report:
    """All of it."""
    report = Report()
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as (url, pid):
        start = time.perf_counter()
        with probing(url, report):
            asyncio.run(ask_all(url, pid, requests, clients, report))
        report.took_s = time.perf_counter() - start
        _wait_until_empty(Path(name) / "spool", report)
        _wait_until_empty(Path(name) / "jobs" / "spool", report)
        report.end = Usage.of(pid)
    _check_growth(report)
    return report


def _wait_until_empty(folder: Path, report: Report) -> None:
    deadline = time.monotonic() + 10
    while left := list(folder.glob("*")):
        if time.monotonic() > deadline:
            report.faults.append(f"{len(left)} files left in {folder.name}")
            return
        time.sleep(0.1)


def _check_growth(report: Report) -> None:
    assert report.warm and report.end
    if report.end.rss_mb - report.warm.rss_mb > GROWTH_LIMIT_MB:
        report.faults.append(f"memory grew by {report.end.rss_mb - report.warm.rss_mb:.0f} MB")
    if report.end.files > report.warm.files:  # by then all connections are closed
        report.faults.append(f"{report.end.files - report.warm.files} more files are open")


def main() -> int:
    """Run it, and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--clients", type=int, default=64)
    arguments = parser.parse_args()
    report = soak(arguments.requests, arguments.clients)
    print("\n".join(report.lines()))
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
