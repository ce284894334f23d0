"""What the service refuses, survives and cleans up."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import torch
from fakes import SEGMENTS, FakeTranscriber
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from serving import PATIENCE_S, BusyTranscriber, eventually, left_in_spool, running, serving, settings_in
from test_api import wav_bytes

from sensevoice.apps.api import create_app
from sensevoice.apps.api.access import RateLimiter, is_guarded, is_known_key
from sensevoice.apps.api.logs import JsonFormatter, request_id
from sensevoice.apps.api.metrics import Metrics
from sensevoice.apps.api.uploads import STALE_S, Spool, remove_stale
from sensevoice.apps.api.work import WorkQueue
from sensevoice.engine import TorchEngine
from sensevoice.errors import QueueFullError, RateLimitError, ShuttingDownError
from sensevoice.scheduler import BatchingEngine

WAV = wav_bytes()


def client_of(transcriber: Any, folder: Path, **options: Any) -> TestClient:
    return TestClient(create_app(transcriber, settings_in(folder, **options)), raise_server_exceptions=False)


def post(client: Any, content: bytes = WAV, **options: Any) -> httpx.Response:
    return client.post("/transcribe", files={"file": ("clip.wav", content)}, **options)


def kind_of(reply: httpx.Response) -> str:
    return reply.json()["error"]["type"]


# Keys and rates ----------------------------------------------------------------------------------


def test_every_path_of_the_service_but_health_and_docs_needs_a_key(tmp_path: Path) -> None:
    client = client_of(FakeTranscriber(), tmp_path, api_keys="sk-one,sk-two")
    assert client.get("/health").status_code == client.get("/docs").status_code == 200
    paths = client.get("/openapi.json").json()["paths"]
    assert len(paths) > 5
    for path, methods in paths.items():
        for method in methods:
            status = client.request(method, path).status_code
            assert status == (200 if path == "/health" else 401), (method, path)


def test_either_key_opens_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    client = client_of(FakeTranscriber(), tmp_path, api_keys="sk-one,sk-two")
    replies = {
        key: post(client, headers={"Authorization": f"Bearer {key}"}) for key in ("sk-one", "sk-two", "sk")
    }
    assert [reply.status_code for reply in replies.values()] == [200, 200, 401]
    refused = replies["sk"]
    assert (refused.headers["www-authenticate"], kind_of(refused)) == ("Bearer", "UnauthorizedError")
    assert post(client, headers={"Authorization": "Basic sk-one"}).status_code == 401


def test_a_key_is_compared_whole() -> None:
    assert is_known_key("sk-one", ["sk-two", "sk-one"])
    assert not any(is_known_key(key, ["sk-one"]) for key in ("", "sk-on", "sk-one ", "SK-ONE"))
    assert not is_known_key("", [])


def test_without_a_key_nothing_of_the_upload_is_read(tmp_path: Path) -> None:
    with running(FakeTranscriber(), settings_in(tmp_path, api_keys="sk-one")) as url:
        connection = send(url, "/transcribe", multipart(WAV)[:100], declared=2**30)
        assert connection.recv(64).startswith(b"HTTP/1.1 401")  # although the rest has not been sent
        connection.close()
    assert left_in_spool(tmp_path) == []


def test_a_bucket_fills_up_again_evenly() -> None:
    now = 0.0
    limiter = RateLimiter(6, clock=lambda: now)
    for _ in range(6):
        limiter.take("a")
    with pytest.raises(RateLimitError) as refused:
        limiter.take("a")
    assert refused.value.retry_after_s == 10
    limiter.take("b")
    now = 10.0
    limiter.take("a")
    with pytest.raises(RateLimitError):
        limiter.take("a")


def test_too_many_requests_with_one_key_are_429_and_reading_is_free(tmp_path: Path) -> None:
    client = client_of(FakeTranscriber(), tmp_path, api_keys="sk-one,sk-two", rate_per_minute=2)
    one, two = ({"Authorization": f"Bearer {key}"} for key in ("sk-one", "sk-two"))
    assert [post(client, headers=one).status_code for _ in range(3)] == [200, 200, 429]
    refused = post(client, headers=one)
    assert (kind_of(refused), int(refused.headers["retry-after"])) == ("RateLimitError", 30)
    assert post(client, headers=two).status_code == 200
    assert client.get("/v1/models", headers=one).status_code == 200


def test_a_prefix_of_a_proxy_does_not_open_what_is_guarded(tmp_path: Path) -> None:
    app = create_app(FakeTranscriber(), settings_in(tmp_path, api_keys="sk-one"))  # type: ignore[arg-type]
    client = TestClient(app, root_path="/speech")
    assert client.get("/speech/health").status_code == 200
    for path in ("/speech/v1/models", "/speech/metrics", "/v1/models", "/metrics"):
        assert client.get(path).status_code == 401
    assert client.get("/speech/v1/models").json()["error"]["code"] == "invalid_api_key"
    assert "/speech/docs/assets/" in client.get("/speech/docs").text


@pytest.mark.parametrize("path", ["/transcribe", "/transcribe/", "/v1/anything", "/metrics", "/ready"])
def test_the_services_paths_are_guarded(path: str) -> None:
    assert is_guarded(path)


def test_other_web_sites_may_call_only_if_they_are_named(tmp_path: Path) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    closed = client_of(FakeTranscriber(), tmp_path)
    assert "access-control-allow-origin" not in closed.get("/health", headers=asked).headers
    client = client_of(FakeTranscriber(), tmp_path, cors_origins="https://a.example", api_keys="sk-one")
    preflight = client.options("/transcribe", headers=asked)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (
        200,
        "https://a.example",
    )
    other = client.get("/health", headers={**asked, "Origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers


# The queue ---------------------------------------------------------------------------------------


def in_background(count: int, client: Any) -> tuple[list[threading.Thread], list[httpx.Response]]:
    replies: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: replies.append(post(client))) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, replies


def test_what_finds_the_queue_full_is_told_when_to_come_back(tmp_path: Path) -> None:
    transcriber = BusyTranscriber()
    with client_of(transcriber, tmp_path, workers=1, queue_length=1) as client:
        work = client.app.state.service.work
        first, replies = in_background(1, client)
        eventually(lambda: transcriber.working == 1)
        second, more = in_background(1, client)
        eventually(lambda: len(work._waiting) == 1)
        refused = post(client)
        assert (refused.status_code, kind_of(refused)) == (503, "QueueFullError")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert client.get("/health").status_code == 200
        transcriber.release.set()
        for thread in (*first, *second):
            thread.join()
    assert [reply.status_code for reply in (*replies, *more)] == [200, 200]
    assert left_in_spool(tmp_path) == []


def test_health_needs_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def in_no_thread(*_: object, **__: object) -> None:
        raise AssertionError("waits for a thread, which may not get its turn while transcriptions run")

    client = client_of(FakeTranscriber(), tmp_path)
    monkeypatch.setattr("anyio.to_thread.run_sync", in_no_thread)
    assert client.get("/health").status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="niceness is the whole process's")
def test_on_a_busy_processor_the_event_loop_goes_before_the_work(tmp_path: Path) -> None:
    seen: dict[str, int] = {}

    def note(name: str) -> None:
        seen[name] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    class Noting(FakeTranscriber):
        def transcribe(self, *arguments: Any) -> Any:
            note("work")
            engines_own = threading.Thread(target=note, args=("started by the work",))
            engines_own.start()
            engines_own.join()
            return super().transcribe(*arguments)

    app = create_app(Noting(), settings_in(tmp_path))  # type: ignore[arg-type]

    @app.get("/loop")
    async def loop() -> None:
        note("loop")

    client = TestClient(app)
    post(client)
    assert client.get("/loop").status_code == 200
    assert seen["work"] == seen["started by the work"] == max(10, seen["loop"])


def test_health_answers_while_64_transcriptions_run(tmp_path: Path) -> None:
    transcriber = BusyTranscriber()

    async def ask(url: str) -> list[int]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(limits=limits, timeout=PATIENCE_S, base_url=url) as client:
            work = [asyncio.create_task(_post(client)) for _ in range(64)]
            while transcriber.working < 64:
                await asyncio.sleep(0.01)
            for _ in range(5):
                assert (await client.get("/health")).status_code == 200
            assert transcriber.working == 64
            assert not any(task.done() for task in work)
            transcriber.release.set()
            return [(await task).status_code for task in work]

    with running(transcriber, settings_in(tmp_path, workers=64)) as url:
        assert asyncio.run(ask(url)) == [200] * 64


async def _post(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/transcribe", files={"file": ("clip.wav", WAV)})


@pytest.mark.parametrize("path", ["/transcribe", "/v1/audio/transcriptions"])
def test_a_client_that_goes_away_frees_its_work_and_its_upload(tmp_path: Path, path: str) -> None:
    transcriber = BusyTranscriber()
    with running(transcriber, settings_in(tmp_path, workers=1)) as url:
        for _ in range(2):
            connection = send(url, path, multipart(WAV))
            eventually(lambda: transcriber.working == 1 and left_in_spool(tmp_path))
            connection.close()
            eventually(lambda: transcriber.working == 0)
        eventually(lambda: left_in_spool(tmp_path) == [])
    assert transcriber.stopped == ["AbandonedError"] * 2


def test_a_client_that_goes_away_leaves_the_queue_at_once(tmp_path: Path) -> None:
    transcriber = BusyTranscriber()
    settings = settings_in(tmp_path, workers=1)
    app = create_app(transcriber, settings)  # type: ignore[arg-type]
    with serving(app, settings) as url:
        working = send(url, "/transcribe", multipart(WAV))
        eventually(lambda: transcriber.working == 1)
        waiting = send(url, "/transcribe", multipart(WAV))
        eventually(lambda: len(app.state.service.work._waiting) == 1)
        waiting.close()
        eventually(lambda: len(app.state.service.work._waiting) == 0)
        transcriber.release.set()
        assert working.recv(64).startswith(b"HTTP/1.1 200")
        working.close()
        eventually(lambda: left_in_spool(tmp_path) == [])
    assert len(transcriber.asked) == 1


def test_a_client_that_goes_away_in_the_middle_of_its_upload_leaves_nothing(tmp_path: Path) -> None:
    with running(FakeTranscriber(), settings_in(tmp_path)) as url:
        connection = send(url, "/transcribe", multipart(WAV)[:-1000], declared=len(multipart(WAV)))
        eventually(lambda: left_in_spool(tmp_path))
        connection.close()
        eventually(lambda: left_in_spool(tmp_path) == [])


def test_a_client_that_leaves_its_stream_frees_its_work(tmp_path: Path) -> None:
    transcriber = BusyTranscriber()
    with running(transcriber, settings_in(tmp_path)) as url:
        connection = send(url, "/v1/audio/transcriptions", multipart(WAV, stream="true"))
        assert connection.recv(64).startswith(b"HTTP/1.1 200")
        assert transcriber.working == 1
        connection.close()
        eventually(lambda: transcriber.working == 0)
        eventually(lambda: left_in_spool(tmp_path) == [])
    assert transcriber.stopped == ["AbandonedError"]


def multipart(content: bytes, **fields: str) -> bytes:
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{fields[key]}\r\n' for key in fields
    ]
    head = '--x\r\nContent-Disposition: form-data; name="file"; filename="../../etc/a.wav"\r\n\r\n'
    return "".join([*parts, head]).encode() + content + b"\r\n--x--\r\n"


def send(url: str, path: str, body: bytes, declared: int | None = None) -> socket.socket:
    """Send a request and leave its reply unread."""
    connection = connected(url)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    connection.sendall(f"{head}Content-Length: {declared or len(body)}\r\n\r\n".encode() + body)
    return connection


# Times -------------------------------------------------------------------------------------------


def test_a_transcription_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    transcriber = BusyTranscriber()
    with client_of(transcriber, tmp_path, request_timeout_s=0.1) as client:
        reply = post(client)
        assert (reply.status_code, kind_of(reply)) == (504, "RequestTimeoutError")
        eventually(lambda: transcriber.stopped == ["AbandonedError"])
    assert left_in_spool(tmp_path) == []


def test_decoding_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    class Slow(FakeTranscriber):
        def transcribe(self, source: Any, *_: Any) -> Any:
            while source.read(1):
                time.sleep(0.01)

    with client_of(Slow(), tmp_path, decode_timeout_s=0.1) as client:
        reply = post(client)
    assert (reply.status_code, kind_of(reply)) == (422, "DecodeTimeoutError")


@pytest.mark.parametrize("limits", [{"upload_idle_s": 0.2}, {"upload_timeout_s": 0.3}])
def test_an_upload_that_comes_byte_by_byte_is_cut_off(tmp_path: Path, limits: dict[str, float]) -> None:
    with running(FakeTranscriber(), settings_in(tmp_path, **limits)) as url:
        connection = send(url, "/transcribe", multipart(WAV)[:1000], declared=len(multipart(WAV)))
        connection.settimeout(0.05)
        reply = b""
        deadline = time.monotonic() + PATIENCE_S
        while not reply and time.monotonic() < deadline:
            if "upload_timeout_s" in limits:
                connection.sendall(b"\0")
            try:
                reply = connection.recv(4096)
            except TimeoutError:
                continue
        connection.settimeout(PATIENCE_S)
        while reply and b"}" not in reply:
            reply += connection.recv(4096)
        connection.close()
        assert reply.startswith(b"HTTP/1.1 408")
        assert b"UploadTimeoutError" in reply
        eventually(lambda: left_in_spool(tmp_path) == [])


def test_a_head_that_comes_byte_by_byte_is_cut_off(tmp_path: Path) -> None:
    with running(FakeTranscriber(), settings_in(tmp_path, head_timeout_s=0.3)) as url:
        with connected(url) as slow:
            reply = dripped(slow, b"GET /health HTTP/1.1\r\nX-Slow: ")
            assert reply.startswith(b"HTTP/1.1 408")
            assert b"HeadTimeoutError" in reply
        with connected(url) as mute:
            assert mute.recv(1) == b""  # closed, and nothing said
        with connected(url) as second_slow:
            second_slow.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            with second_slow.makefile("rb") as reply_file:
                assert reply_file.readline() == b"HTTP/1.1 200 OK\r\n"
                while reply_file.read(1) != b"}":
                    pass
            assert dripped(second_slow, b"GET /health HTTP/1.1\r\nX-Slow: ").startswith(b"HTTP/1.1 408")


def test_a_reply_may_take_longer_than_a_head(tmp_path: Path) -> None:
    transcriber = BusyTranscriber()
    with running(transcriber, settings_in(tmp_path, head_timeout_s=0.2)) as url:
        connection = send(url, "/transcribe", multipart(WAV))
        eventually(lambda: transcriber.working == 1)
        time.sleep(0.5)
        transcriber.release.set()
        assert connection.recv(64).startswith(b"HTTP/1.1 200")
        connection.close()


def connected(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S)


def dripped(connection: socket.socket, head: bytes) -> bytes:
    """What comes back while `head` is followed by a byte now and then; b"" if nothing ever does."""
    connection.sendall(head)
    connection.settimeout(0.05)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            return connection.recv(4096)
        except TimeoutError:
            connection.sendall(b"x")
    return b""


def test_an_open_page_does_not_keep_the_service_from_ending(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, grace_s=10 * PATIENCE_S)
    app = create_app(FakeTranscriber(), settings)  # type: ignore[arg-type]

    @app.get("/gradio_api/heartbeat/{session}")
    async def beat(session: str) -> StreamingResponse:
        async def for_ever() -> AsyncIterator[str]:
            while True:
                yield "ALIVE"
                await asyncio.sleep(0.05)

        return StreamingResponse(for_ever())

    with serving(app, settings) as url:
        page = connected(url)
        page.sendall(b"GET /gradio_api/heartbeat/a HTTP/1.1\r\nHost: x\r\n\r\n")
        assert page.recv(15) == b"HTTP/1.1 200 OK"
    with page, page.makefile("rb") as rest:
        assert b"ALIVE" in rest.read()  # up to the end of the connection


# Faults ------------------------------------------------------------------------------------------


class FullDisk:
    """A file on a disk without room."""

    def __init__(self, file: BinaryIO) -> None:
        self.name, self.seek, self.close = file.name, file.seek, file.close

    def write(self, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", self.name)


def test_a_full_disk_is_507_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = Spool.create
    monkeypatch.setattr(Spool, "create", lambda spool: FullDisk(create(spool)))
    reply = post(client_of(FakeTranscriber(), tmp_path))
    assert (reply.status_code, kind_of(reply)) == (507, "StorageFullError")
    assert reply.json()["error"]["message"].startswith("The service has no room left")
    assert str(tmp_path) not in reply.text
    assert left_in_spool(tmp_path) == []


def test_a_spool_that_cannot_be_written_gives_nothing_away(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where a folder should be")
    reply = post(client_of(FakeTranscriber(), tmp_path))
    assert (reply.status_code, kind_of(reply)) == (500, "InternalError")
    assert "spool" not in reply.text


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. GPU 0 has 79 GiB"), MemoryError()]
)
def test_memory_that_runs_out_is_503_and_the_next_request_works(tmp_path: Path, error: Exception) -> None:
    transcriber = FakeTranscriber()
    client = client_of(transcriber, tmp_path)
    transcriber.error = error
    reply = post(client)
    assert (reply.status_code, kind_of(reply)) == (503, "MemoryFullError")
    assert "79 GiB" not in reply.text
    assert reply.headers["retry-after"] == "10"
    transcriber.error = None
    assert post(client).status_code == 200


class Mortal(FakeTranscriber):
    """Ends the thread it works in, the first `deaths` times."""

    def __init__(self, deaths: int) -> None:
        super().__init__()
        self.deaths = deaths

    def transcribe(self, *arguments: Any) -> Any:
        if self.deaths:
            self.deaths -= 1
            raise SystemExit
        return super().transcribe(*arguments)


def test_a_worker_that_dies_is_replaced_and_its_request_is_tried_again(tmp_path: Path) -> None:
    client = client_of(Mortal(deaths=1), tmp_path, workers=1)
    assert post(client).status_code == 200
    assert "sensevoice_worker_restarts_total 1.0" in client.get("/metrics").text


def test_a_request_that_kills_two_workers_is_given_up(tmp_path: Path) -> None:
    client = client_of(Mortal(deaths=2), tmp_path, workers=1)
    reply = post(client)
    assert (reply.status_code, kind_of(reply)) == (503, "WorkerDiedError")
    assert post(client).status_code == 200


def test_a_name_that_leads_out_of_the_spool_leads_nowhere(tmp_path: Path) -> None:
    seen: list[Path] = []

    class Watching(FakeTranscriber):
        def transcribe(self, *arguments: Any) -> Any:
            seen.extend(left_in_spool(tmp_path))
            return super().transcribe(*arguments)

    client = client_of(Watching(), tmp_path)
    reply = client.post("/transcribe", files={"file": ("../../etc/passwd", WAV)})
    assert reply.status_code == 200
    assert len(seen) == 1
    assert seen[0].name.removesuffix(".upload").isalnum()


def test_what_a_killed_process_left_is_removed_a_day_later(tmp_path: Path) -> None:
    old, new, foreign = (tmp_path / name for name in ("a.upload", "b.upload", "c.txt"))
    for path in (old, new, foreign):
        path.touch()
    os.utime(old, (time.time() - STALE_S - 60,) * 2)
    remove_stale(tmp_path)
    assert set(tmp_path.iterdir()) == {new, foreign}


# The queue by itself -----------------------------------------------------------------------------


def test_a_closing_queue_finishes_what_it_has_and_takes_no_more() -> None:
    queue = WorkQueue(1, 8, Metrics())
    done: list[int] = []
    for number in range(4):
        queue.submit(lambda _, number=number: (time.sleep(0.01), done.append(number)))  # type: ignore[misc]
    assert queue.close(PATIENCE_S)
    assert done == [0, 1, 2, 3]
    with pytest.raises(ShuttingDownError):
        queue.submit(lambda _: None)


def test_a_closing_queue_abandons_what_does_not_end_in_time() -> None:
    queue = WorkQueue(1, 8, Metrics())

    def endless(ticket: Any) -> None:
        while True:
            ticket.check()
            time.sleep(0.005)

    running_ticket, waiting = queue.submit(endless), queue.submit(endless)
    assert not queue.close(0.05)
    assert waiting.future.cancelled()
    assert type(running_ticket.future.exception(PATIENCE_S)).__name__ == "AbandonedError"


def test_a_full_queue_says_so_before_anything_is_uploaded() -> None:
    queue, release = WorkQueue(1, 0, Metrics()), threading.Event()
    ticket = queue.submit(lambda _: release.wait(PATIENCE_S))
    with pytest.raises(QueueFullError):
        queue.check_room()
    release.set()
    assert ticket.future.result(PATIENCE_S)
    assert queue.close(PATIENCE_S)


# Logs and metrics --------------------------------------------------------------------------------


def test_a_reply_carries_the_requests_id_and_a_usable_one_is_kept(tmp_path: Path) -> None:
    client = client_of(FakeTranscriber(), tmp_path)
    assert client.get("/health", headers={"X-Request-ID": "order-7"}).headers["x-request-id"] == "order-7"
    made = [
        client.get("/health", headers={"X-Request-ID": name}).headers["x-request-id"]
        for name in ("a b", "x" * 65)
    ]
    assert all(len(one) == 32 for one in made)
    assert made[0] != made[1]
    assert client.get("/nowhere").headers["x-request-id"]


def lines_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(JsonFormatter().format(record)) for record in caplog.records]


@pytest.mark.parametrize("wanted", [False, True])
def test_what_was_said_is_logged_only_if_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wanted: bool
) -> None:
    with caplog.at_level(logging.DEBUG, logger="sensevoice"):
        post(client_of(FakeTranscriber(), tmp_path, log_transcripts=wanted))
    logged = json.dumps(lines_of(caplog), ensure_ascii=False)
    assert (SEGMENTS[0].text in logged) == wanted
    (entry,) = [line for line in lines_of(caplog) if line["message"] == "request"]
    assert (entry["method"], entry["route"], entry["status"]) == ("POST", "/transcribe", 200)
    assert "clip.wav" not in logged


def test_a_workers_lines_carry_the_id_of_their_request(tmp_path: Path) -> None:
    ids: list[str] = []

    class Noting(FakeTranscriber):
        def transcribe(self, *arguments: Any) -> Any:
            ids.append(request_id.get())
            return super().transcribe(*arguments)

    post(client_of(Noting(), tmp_path), headers={"X-Request-ID": "order-7"})
    assert ids == ["order-7"]


def test_no_reply_holds_a_stack_trace_but_the_log_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    transcriber = FakeTranscriber()
    transcriber.error = RuntimeError("/secret/path exploded")
    for path in ("/transcribe", "/v1/audio/transcriptions"):
        reply = client_of(transcriber, tmp_path).post(path, files={"file": ("a.wav", WAV)})
        assert reply.status_code == 500
        assert "Traceback" not in reply.text
        assert "secret" not in reply.text
    assert any("Traceback" in line.get("trace", "") for line in lines_of(caplog))


def test_metrics_count_requests_sound_stages_and_errors(tmp_path: Path) -> None:
    client = client_of(FakeTranscriber(), tmp_path)
    post(client)
    post(client, b"plain text")
    text = client.get("/metrics").text
    for line in (
        'sensevoice_requests_total{method="POST",route="/transcribe",status="200"} 1.0',
        'sensevoice_requests_total{method="POST",route="/transcribe",status="415"} 1.0',
        'sensevoice_errors_total{kind="NotAudioError"} 1.0',
        "sensevoice_audio_seconds_total 12.5",
        'sensevoice_stage_seconds_count{stage="recognise"} 1.0',
        'sensevoice_stage_seconds_count{stage="queue"} 2.0',
        "sensevoice_queue_depth 0.0",
    ):
        assert line in text.splitlines(), line


def test_metrics_tell_the_sizes_of_batches_and_the_memory_of_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_engine: TorchEngine
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda gpu: 1000 + gpu)
    transcriber = FakeTranscriber()
    transcriber.engine = BatchingEngine([small_engine])  # type: ignore[attr-defined]
    client = client_of(transcriber, tmp_path)
    transcriber.engine.recognise([np.zeros(16_000, np.float32)] * 3)  # type: ignore[attr-defined]
    text = client.get("/metrics").text
    for line in (
        "sensevoice_batch_size_count 1.0",
        "sensevoice_batch_size_sum 3.0",
        'sensevoice_stage_seconds_count{stage="network"} 1.0',
        'sensevoice_gpu_memory_bytes{gpu="0"} 1000.0',
        'sensevoice_gpu_memory_bytes{gpu="1"} 1001.0',
    ):
        assert line in text.splitlines(), line


def test_ready_means_that_a_probe_went_well_not_long_ago(tmp_path: Path) -> None:
    class Counting(FakeTranscriber):
        probes = 0

        def transcribe(self, *arguments: Any) -> Any:
            self.probes += 1
            if self.error:
                raise self.error
            return None

    transcriber = Counting()
    client = client_of(transcriber, tmp_path)
    transcriber.error = torch.OutOfMemoryError()
    assert client.get("/ready").status_code == 503
    assert client.get("/health").status_code == 200
    transcriber.error = None
    assert client.get("/ready").json()["status"] == client.get("/ready").json()["status"] == "ready"
    assert transcriber.probes == 2
