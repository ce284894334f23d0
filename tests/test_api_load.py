"""Many clients at once with the real starter model, the end on SIGTERM, and whatever the schema allows."""

from __future__ import annotations

import asyncio
import atexit
import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import wave
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
import torch
import uvicorn
from fakes import FakeTranscriber
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from serving import PATIENCE_S, eventually, left_in_spool, running, settings_in
from test_api import wav_bytes

from sensevoice.apps.api import create_app
from sensevoice.apps.api.serving import run_server
from sensevoice.audio import decode
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.pipeline import Transcriber
from sensevoice.scheduler import BatchingEngine

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CLIENTS = 200
STAGES = ("queue", "decode", "vad", "recognise", "network")


@pytest.fixture(scope="module")
def starter() -> Transcriber:
    return Transcriber.load(str(STARTER_DIRECTORY), device="cpu", offline=True)


def wav_of(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


@pytest.fixture(scope="module")
def clips(starter: Transcriber) -> dict[bytes, str]:
    """Recordings of different words, and what the model makes of each when it is asked alone."""
    found = {}
    for name in ("zh", "en", "ja", "ko", "yue"):
        samples = decode(EXAMPLES / f"{name}.mp3")
        for start_s in (0, 1):
            wav = wav_of(samples[start_s * 16_000 :])
            found[wav] = starter.transcribe(wav).text
    assert len(set(found.values())) == len(found)
    return found


def test_of_200_clients_at_once_each_gets_its_own_text_and_health_answers_meanwhile(
    starter: Transcriber, clips: dict[bytes, str], tmp_path: Path
) -> None:
    questions = [list(clips)[i % len(clips)] for i in range(CLIENTS)]

    async def ask_all(url: str) -> tuple[list[httpx.Response], int]:
        limits = httpx.Limits(max_connections=CLIENTS + 1)
        async with httpx.AsyncClient(limits=limits, timeout=120, base_url=url) as client:
            work = [asyncio.create_task(ask(client, wav)) for wav in questions]
            healthy = 0
            while not all(task.done() for task in work):
                healthy += (await client.get("/health")).status_code == 200
                await asyncio.sleep(0.02)
            return [task.result() for task in work], healthy

    async def ask(client: httpx.AsyncClient, wav: bytes) -> httpx.Response:
        return await client.post("/transcribe", files={"file": ("clip.wav", wav)})

    with running(starter, settings_in(tmp_path, workers=2)) as url:
        replies, healthy = asyncio.run(ask_all(url))
        eventually(lambda: left_in_spool(tmp_path) == [])
    assert [reply.status_code for reply in replies] == [200] * CLIENTS
    assert [reply.json()["text"] for reply in replies] == [clips[wav] for wav in questions]
    assert healthy > 5


def test_limits_reach_into_the_real_decoder_and_batches_are_counted(
    starter: Transcriber, clips: dict[bytes, str], tmp_path: Path
) -> None:
    def ask(name: str, content: bytes, **limits: Any) -> tuple[int, str, str]:
        app = create_app(starter, settings_in(tmp_path, **limits))
        client = TestClient(app)
        reply = client.post("/transcribe", files={"file": (name, content)})
        return reply.status_code, reply.text, client.get("/metrics").text

    mp3 = (EXAMPLES / "zh.mp3").read_bytes()
    status, text, _ = ask("zh.mp3", mp3, decode_timeout_s=1e-6)
    assert (status, "DecodeTimeoutError" in text) == (422, True)
    status, text, _ = ask("zh.mp3", mp3, max_duration_s=3)
    assert (status, "AudioTooLongError" in text, "the recording is longer" in text) == (413, True, True)
    status, _, metrics = ask("zh.mp3", mp3)
    assert status == 200
    for line in ("batch_size_count", *(f'stage_seconds_count{{stage="{name}"}}' for name in STAGES)):
        assert f"sensevoice_{line} 1.0" in metrics.splitlines(), line
    assert TestClient(create_app(starter, settings_in(tmp_path))).get("/ready").json()["device"] == "cpu"


class Cramped:
    """An engine on a GPU that has room for one utterance at a time, or, after `fill`, for none."""

    def __init__(self, engine: Any) -> None:
        self._engine, self.room = engine, 1
        self.vocabulary, self.tags, self.info = engine.vocabulary, engine.tags, engine.info
        self.device = engine.device

    def recognise(self, utterances: Any, query: Any) -> Any:
        if len(utterances) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. GPU 0 has 79 GiB")
        return self._engine.recognise(utterances, query)


def test_a_gpu_without_room_for_a_batch_fails_nobody_and_one_without_any_says_so(
    starter: Transcriber, clips: dict[bytes, str], tmp_path: Path
) -> None:
    cramped = Cramped(starter.engine)
    transcriber = replace(starter, engine=BatchingEngine([cramped]))  # type: ignore[list-item]
    wavs = list(clips)

    async def ask(url: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=PATIENCE_S, base_url=url) as client:
            files = [{"file": ("clip.wav", wav)} for wav in wavs]
            return await asyncio.gather(*(client.post("/transcribe", files=one) for one in files))

    with running(transcriber, settings_in(tmp_path, workers=4)) as url:
        assert [reply.json()["text"] for reply in asyncio.run(ask(url))] == [clips[wav] for wav in wavs]
        cramped.room = 0
        refused = asyncio.run(ask(url))[0]
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "MemoryFullError")
        assert "79 GiB" not in refused.text
        cramped.room = 1
        assert asyncio.run(ask(url))[0].json()["text"] == clips[wavs[0]]


def test_the_listener_sends_at_once_and_sigterm_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)
    before = signal.getsignal(signal.SIGTERM)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        run_server(uvicorn.Config("unused"), listener)
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert signal.getsignal(signal.SIGTERM) == before


# SIGTERM -----------------------------------------------------------------------------------------

SERVER = """
import sys, threading, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from serving import BusyTranscriber, settings_in
from sensevoice.apps.api import create_app
from sensevoice.apps.api.serving import run_server
from sensevoice.apps.api.logs import start_json_logging
from sensevoice.apps.api.serving import make_config, run_server

start_json_logging("info")
folder = Path({folder!r})
settings = settings_in(folder, host="127.0.0.1", port=0, grace_s={grace_s})
transcriber = BusyTranscriber()

def release():
    while not (folder / "release").exists():
        time.sleep(0.01)
    transcriber.release.set()

threading.Thread(target=release, daemon=True).start()
config = make_config(create_app(transcriber, settings), settings)
listener = config.bind_socket()
print(listener.getsockname()[1], flush=True)
run_server(config, listener)
"""


@pytest.fixture
def process(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], int]]:
    program = SERVER.format(tests=str(Path(__file__).parent), folder=str(tmp_path), grace_s=request.param)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        eventually(lambda: not _refuses(port))
        yield process, port
        process.kill()


@pytest.mark.parametrize("process", [20], indirect=True)
def test_sigterm_finishes_what_runs_takes_nothing_more_and_exits_with_0(
    process: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    server, port = process
    replies: list[int] = []
    client = threading.Thread(target=lambda: replies.append(_ask(port)))
    client.start()
    eventually(lambda: left_in_spool(tmp_path))
    server.send_signal(signal.SIGTERM)
    eventually(lambda: _refuses(port))
    assert replies == []  # the listener is closed while the request still runs
    (tmp_path / "release").touch()
    client.join()
    assert replies == [200]
    assert server.wait(PATIENCE_S) == 0
    assert left_in_spool(tmp_path) == []
    assert server.stderr
    assert '"status": 200' in server.stderr.read()


@pytest.mark.parametrize("process", [1], indirect=True)
def test_what_does_not_end_within_the_grace_time_is_given_up(
    process: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    server, port = process
    client = threading.Thread(target=lambda: _ask(port))
    client.start()
    eventually(lambda: left_in_spool(tmp_path))
    start = time.monotonic()
    server.send_signal(signal.SIGTERM)
    assert server.wait(PATIENCE_S) == 0
    assert time.monotonic() - start < 15
    client.join()


@pytest.mark.parametrize("process", [1], indirect=True)
def test_a_stream_of_events_that_outlasts_the_grace_time_ends_with_the_reason(
    process: tuple[subprocess.Popen[str], int],
) -> None:
    server, port = process
    path, wish = "/v1/audio/transcriptions", {"model": "any", "stream": "true"}
    files = {"file": ("clip.wav", wav_bytes())}
    with httpx.stream(
        "POST", f"http://127.0.0.1:{port}{path}", files=files, data=wish, timeout=PATIENCE_S
    ) as reply:
        lines = (line.removeprefix("data: ") for line in reply.iter_lines() if line)
        assert json.loads(next(lines))["type"] == "transcript.text.delta"
        server.send_signal(signal.SIGTERM)
        assert [json.loads(line)["error"]["code"] for line in lines] == ["ShuttingDownError"]
    assert server.wait(PATIENCE_S) == 0


def _ask(port: int) -> int:
    try:
        files = {"file": ("clip.wav", wav_bytes())}
        return httpx.post(f"http://127.0.0.1:{port}/transcribe", files=files, timeout=PATIENCE_S).status_code
    except httpx.HTTPError:
        return 0


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


# Whatever the schema allows, and some that it does not ---------------------------------------------

CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
]
RIGOUR = settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def operations() -> list[Any]:
    """Every method of every path, with inputs to try."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    app = create_app(FakeTranscriber(), settings_in(folder))  # type: ignore[arg-type]
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    return [result.ok() for result in schema.get_all_operations()]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", operations(), ids=lambda operation: operation.label)
def test_nothing_that_is_sent_makes_the_service_fail(operation: Any, mode: GenerationMode) -> None:
    checks = CHECKS[:1] if operation.path.startswith("/v1/jobs") else CHECKS

    @RIGOUR
    @given(operation.as_strategy(generation_mode=mode))
    def try_out(case: Any) -> None:
        case.call_and_validate(checks=checks)

    with suppress(Unsatisfiable):  # nothing can be wrong with a request that has no parameters
        try_out()
