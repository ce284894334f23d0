"""`/v1/jobs` as clients see it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import DURATION_S, SEGMENTS, SKIPPED, FakeTranscriber
from fastapi.testclient import TestClient
from pydantic import SecretStr
from serving import PATIENCE_S, eventually
from test_webhooks import Receiver

from sensevoice import jobs
from sensevoice.apps.api import create_app
from sensevoice.exporters import EXPORTERS, export
from sensevoice.options import LANGUAGES, TranscribeOptions
from sensevoice.settings import Settings
from sensevoice.transcript import make_transcript
from sensevoice.webhooks import verify

ROOT = Path(__file__).parent.parent
WAV = b"RIFF" + bytes(1000)


@pytest.fixture
def transcriber() -> FakeTranscriber:
    return FakeTranscriber()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(job_dir=tmp_path / "jobs", spool_dir=tmp_path / "spool", job_max_files=5)


@pytest.fixture
def client(transcriber: FakeTranscriber, settings: Settings) -> Iterator[TestClient]:
    app = create_app(transcriber, settings)  # type: ignore[arg-type]
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def files(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("file", (f"{index}.wav", content)) for index, content in enumerate(contents or (WAV,))]


def post(client: TestClient, *contents: bytes, **options: Any) -> dict[str, Any]:
    reply = client.post("/v1/jobs", files=files(*contents), **options)
    assert reply.status_code == 202, reply.text
    return dict(reply.json())


def finished(client: Any, job_id: str, timeout_s: float = 15.0) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while True:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
        if job["finished_at"]:
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.02)


def left_over(settings: Settings) -> list[Path]:
    """Recordings that are still on the disk, in either place."""
    folders = (settings.spool_dir, settings.job_dir / jobs.SPOOL_NAME)
    return [path for folder in folders if folder.exists() for path in folder.iterdir()]


def test_nothing_is_made_on_the_disk_before_the_first_job(client: TestClient, settings: Settings) -> None:
    assert client.get("/health").status_code == 200
    assert not settings.job_dir.exists()


def test_a_job_goes_from_post_to_result(client: TestClient, settings: Settings) -> None:
    reply = client.post("/v1/jobs", files=files(WAV, b"no audio", WAV))
    job = reply.json()
    assert (reply.status_code, reply.headers["location"]) == (202, f"/v1/jobs/{job['id']}")
    assert [file["name"] for file in job["files"]] == ["0.wav", "1.wav", "2.wav"]
    done = finished(client, job["id"])
    assert (done["state"], done["progress"]) == ("done", 1.0)
    assert done["expires_at"] == pytest.approx(done["finished_at"] + settings.job_ttl_s)
    assert [file["state"] for file in done["files"]] == ["done", "failed", "done"]
    assert done["files"][1]["error"]["type"] == "NotAudioError"
    assert done["files"][1]["error"]["message"].startswith("1.wav cannot be read as a recording")
    assert done["files"][2]["total_s"] == DURATION_S
    assert left_over(settings) == []


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize("name", EXPORTERS)
def test_the_result_comes_in_every_export_format(
    client: TestClient, transcriber: FakeTranscriber, name: str, lang: str
) -> None:
    job = post(client)
    finished(client, job["id"])
    reply = client.get(f"/v1/jobs/{job['id']}/result", params={"format": name, "lang": lang})
    expected = make_transcript(
        SEGMENTS, duration_s=DURATION_S, skipped=SKIPPED, options=transcriber.asked[0], model="fake-starter"
    )
    assert reply.text == export(expected, name, lang)
    assert reply.headers["content-type"].split(";")[0] == EXPORTERS[name].media_type
    assert reply.headers["content-disposition"] == f"attachment; filename*=UTF-8''0{EXPORTERS[name].suffix}"


def test_the_options_reach_the_transcriber(
    client: TestClient, transcriber: FakeTranscriber, settings: Settings
) -> None:
    asked = {
        **{"language": "auto", "allowed_languages": ["zh", "yue"], "use_itn": "false", "use_vad": "false"},
        **{"ban_emo_unk": "true", "emotion_threshold": "0.25"},
    }
    job = post(client, data=asked)
    assert job["options"] == {
        **{"language": "auto", "allowed_languages": ["zh", "yue"], "use_itn": False, "use_vad": False},
        **{"ban_emo_unk": True, "emotion_threshold": 0.25},
    }
    finished(client, job["id"])
    assert transcriber.asked == [
        TranscribeOptions(
            allowed_languages=("zh", "yue"),
            use_itn=False,
            use_vad=False,
            ban_emo_unk=True,
            emotion_threshold=0.25,
            max_duration_s=settings.max_duration_s,
        )
    ]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"language": "klingon"}, "UnknownLanguageError"),
        ({"allowed_languages": ["zh", "klingon"]}, "UnknownLanguageError"),
        ({"emotion_threshold": "1.5"}, "InvalidRequest"),
        ({"emotion_threshold": "nan"}, "InvalidRequest"),
        ({"use_itn": "perhaps"}, "InvalidRequest"),
        ({"webhook": "https://example.com"}, "WebhookRefusedError"),  # there is no secret
    ],
)
def test_what_cannot_be_asked_is_refused_and_leaves_nothing(
    client: TestClient, settings: Settings, data: dict[str, Any], kind: str
) -> None:
    reply = client.post("/v1/jobs", files=files(), data=data)
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, kind)
    if kind == "UnknownLanguageError":
        assert all(language in reply.json()["error"]["message"] for language in LANGUAGES)
    assert left_over(settings) == []


def test_too_many_files_and_none_are_refused(client: TestClient, settings: Settings) -> None:
    assert client.post("/v1/jobs", files=files(*[WAV] * 6)).status_code == 422
    assert client.post("/v1/jobs").status_code == 422
    assert left_over(settings) == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\recordings\\会议.wav", "会议.wav"),
        ("a\u202eb\x1b[31m.wav", "ab[31m.wav"),
        ("x" * 400, "x" * 255),
        ("..", ".."),
    ],
)
def test_the_clients_name_is_shown_and_never_used(
    client: TestClient, settings: Settings, name: str, shown: str
) -> None:
    job = client.post("/v1/jobs", files=[("file", (name, WAV))]).json()
    assert job["files"][0]["name"] == shown
    finished(client, job["id"])
    assert {path.name for path in settings.job_dir.iterdir()} <= {
        *(
            "jobs.sqlite3",
            "jobs.sqlite3-wal",
            "jobs.sqlite3-shm",
            "owner.sqlite3",
            "owner.sqlite3-journal",
            "spool",
        )
    }


def test_a_repeated_post_is_harmless_and_another_with_its_key_is_refused(
    client: TestClient, transcriber: FakeTranscriber, settings: Settings
) -> None:
    headers = {"Idempotency-Key": "week-7"}
    first = client.post("/v1/jobs", files=files(WAV, WAV), headers=headers)
    again = client.post("/v1/jobs", files=files(WAV, WAV), headers=headers)
    assert again.json()["id"] == first.json()["id"]
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    other = client.post("/v1/jobs", files=files(WAV), headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "IdempotencyError")
    finished(client, first.json()["id"])
    assert len(transcriber.asked) == 2
    assert left_over(settings) == []


def test_the_same_post_many_times_at_once_makes_one_job(client: TestClient, settings: Settings) -> None:
    found: list[str] = []

    def send() -> None:
        found.append(post(client, headers={"Idempotency-Key": "k"})["id"])

    threads = [threading.Thread(target=send) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 10
    assert len(set(found)) == 1
    assert len(client.get("/v1/jobs").json()["jobs"]) == 1


def test_jobs_are_listed_by_page_and_state(client: TestClient) -> None:
    ids = [post(client)["id"] for _ in range(5)]
    for job_id in ids:
        finished(client, job_id)
    failed = post(client, b"no audio")["id"]
    finished(client, failed)
    seen, after = [], ""
    while after is not None:
        page = client.get("/v1/jobs", params={"limit": 2, "after": after}).json()
        seen += [job["id"] for job in page["jobs"]]
        after = page["next"]
    assert sorted(seen) == sorted([*ids, failed])
    assert seen == sorted(seen, reverse=True)
    only = client.get("/v1/jobs", params={"state": "failed"}).json()
    assert ([job["id"] for job in only["jobs"]], only["next"]) == ([failed], None)
    assert client.get("/v1/jobs", params={"state": "lost"}).status_code == 422


def test_a_result_that_is_not_there_is_named(settings: Settings) -> None:
    slow = FakeTranscriber(pause_s=0.3)
    with TestClient(create_app(slow, settings)) as client:  # type: ignore[arg-type]
        job_id = post(client, WAV, b"no audio")["id"]
        early = client.get(f"/v1/jobs/{job_id}/result")
        assert (early.status_code, early.json()["error"]["code"]) == (409, "JobNotFinishedError")
        finished(client, job_id)
        failed = client.get(f"/v1/jobs/{job_id}/result", params={"file": 1})
        assert (failed.status_code, failed.json()["error"]["code"]) == (422, "JobFileFailedError")
        assert client.get(f"/v1/jobs/{job_id}/result", params={"file": 2}).status_code == 404
        unknown = client.get(f"/v1/jobs/{job_id}/result", params={"format": "docx"})
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (422, "UnknownFormatError")
    assert client.get("/v1/jobs/nothing").status_code == 404


def test_deleting_stops_a_running_job_and_removes_everything(settings: Settings) -> None:
    slow = FakeTranscriber(pause_s=0.05, segments=SEGMENTS * 100)
    with TestClient(create_app(slow, settings)) as client:  # type: ignore[arg-type]
        job_id = post(client)["id"]
        while not slow.asked:
            time.sleep(0.01)
        assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
        time.sleep(0.15)
        reports = slow.reports
        time.sleep(0.2)
        assert slow.reports == reports < len(slow.segments)
        assert client.get(f"/v1/jobs/{job_id}").status_code == 404
        assert client.delete(f"/v1/jobs/{job_id}").status_code == 404
    assert left_over(settings) == []


def test_the_jobs_of_one_key_are_not_those_of_another(
    transcriber: FakeTranscriber, settings: Settings
) -> None:
    locked = settings.model_copy(update={"api_keys": ("mine", "yours")})
    with TestClient(create_app(transcriber, locked)) as client:  # type: ignore[arg-type]
        mine, yours = ({"Authorization": f"Bearer {key}"} for key in ("mine", "yours"))
        job_id = client.post("/v1/jobs", files=files(), headers=mine).json()["id"]
        assert client.get(f"/v1/jobs/{job_id}", headers=mine).status_code == 200
        assert client.get("/v1/jobs", headers=yours).json()["jobs"] == []
        for method, path in (("GET", ""), ("GET", "/result"), ("DELETE", "")):
            reply = client.request(method, f"/v1/jobs/{job_id}{path}", headers=yours)
            assert reply.status_code == 404
        assert client.get(f"/v1/jobs/{job_id}").status_code == 401
    assert b"mine" not in (settings.job_dir / jobs.DATABASE_NAME).read_bytes()


def test_a_full_queue_says_when_to_come_back(transcriber: FakeTranscriber, settings: Settings) -> None:
    small = settings.model_copy(update={"job_max_queued": 1})
    with TestClient(create_app(transcriber, small)) as client:  # type: ignore[arg-type]
        reply = client.post("/v1/jobs", files=files(WAV, WAV))
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "QueueFullError")
    assert int(reply.headers["retry-after"]) > 0
    assert left_over(settings) == []


def test_a_full_disk_is_said_and_leaves_nothing(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jobs.os, "fsync", full)
    reply = client.post("/v1/jobs", files=files(WAV, WAV))
    assert (reply.status_code, reply.json()["error"]["code"]) == (507, "StorageFullError")
    assert left_over(settings) == []


def test_a_folder_that_cannot_be_written_to_is_said(transcriber: FakeTranscriber, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    broken = Settings(job_dir=tmp_path / "file", spool_dir=tmp_path / "spool")
    with TestClient(create_app(transcriber, broken)) as client:  # type: ignore[arg-type]
        reply = client.post("/v1/jobs", files=files())
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "JobStoreError")


def test_a_broken_database_stops_no_other_endpoint(transcriber: FakeTranscriber, settings: Settings) -> None:
    settings.job_dir.mkdir()
    (settings.job_dir / jobs.DATABASE_NAME).write_bytes(b"no database at all" * 100)
    with TestClient(create_app(transcriber, settings)) as client:  # type: ignore[arg-type]
        assert client.get("/health").status_code == 200
        assert client.get("/v1/jobs").status_code == 503


def test_jobs_of_an_earlier_process_are_resumed_at_the_start(
    transcriber: FakeTranscriber, settings: Settings
) -> None:
    slow = FakeTranscriber(pause_s=0.05, segments=SEGMENTS * 100)
    stopping = settings.model_copy(update={"grace_s": 0.0})
    with TestClient(create_app(slow, stopping)) as client:  # type: ignore[arg-type]
        job_id = post(client, WAV, WAV)["id"]
        while not slow.asked:
            time.sleep(0.01)
    with TestClient(create_app(transcriber, settings)) as client:  # type: ignore[arg-type]
        assert [file["attempts"] for file in finished(client, job_id)["files"]] == [1, 1]


def test_the_event_loop_is_free_while_the_database_waits(
    transcriber: FakeTranscriber, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, begun, released = jobs.JobStore.page, threading.Event(), threading.Event()

    def slow_page(*arguments: Any, **options: Any) -> Any:
        begun.set()
        assert released.wait(PATIENCE_S)
        return real(*arguments, **options)

    monkeypatch.setattr(jobs.JobStore, "page", slow_page)
    app = create_app(transcriber, settings)  # type: ignore[arg-type]

    async def both() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            waiting = asyncio.create_task(client.get("/v1/jobs"))
            assert await asyncio.to_thread(begun.wait, PATIENCE_S)
            health = await asyncio.wait_for(client.get("/health"), PATIENCE_S / 2)
            assert health.status_code == 200 and not waiting.done()
            released.set()
            assert (await waiting).status_code == 200

    asyncio.run(both())
    app.state.jobs.close()


def test_a_webhook_is_taken_where_there_is_a_secret_and_never_to_this_machine(
    transcriber: FakeTranscriber, settings: Settings
) -> None:
    signing = settings.model_copy(update={"webhook_secret": SecretStr("s")})
    with TestClient(create_app(transcriber, signing)) as client:  # type: ignore[arg-type]
        reply = client.post("/v1/jobs", files=files(), data={"webhook": "http://127.0.0.1/x"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "WebhookRefusedError")
        job = post(client, data={"webhook": "https://nowhere.invalid/x", "webhook_transcript": "true"})
        assert job["webhook"] == {
            **{"url": "https://nowhere.invalid/x", "transcript": True, "state": "waiting"},
            **{"attempts": 0, "error": None},
        }


def test_the_settings_of_jobs_and_webhooks_are_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {
        **{"job_dir": "/jobs", "job_ttl_s": "60.0", "job_threads": "2", "job_max_files": "3"},
        **{"job_max_queued": "4", "webhook_secret": "very secret", "webhook_allow_private": "True"},
        **{"webhook_timeout_s": "5.0", "webhook_attempts": "6", "webhook_backoff_s": "7.0"},
    }
    for name, value in given.items():
        monkeypatch.setenv(f"SENSEVOICE_{name.upper()}", value)
    read = Settings()
    assert {name: str(getattr(read, name)) for name in given} == {**given, "webhook_secret": "*" * 10}
    assert "very secret" not in repr(read)


def test_the_end_of_a_job_is_told_to_its_webhook(transcriber: FakeTranscriber, settings: Settings) -> None:
    receiver = Receiver()
    signing = settings.model_copy(
        update={"webhook_secret": SecretStr("s"), "webhook_allow_private": True, "webhook_backoff_s": 0.05}
    )
    with TestClient(create_app(transcriber, signing)) as client:  # type: ignore[arg-type]
        job_id = post(client, data={"webhook": receiver.url()})["id"]
        while client.get(f"/v1/jobs/{job_id}").json()["webhook"]["state"] != "delivered":
            time.sleep(0.02)
    receiver.shutdown()
    receiver.server_close()
    ((headers, body, _),) = receiver.requests
    assert verify("s", headers["SenseVoice-Signature"], body)
    assert json.loads(body)["job"]["id"] == job_id


# The whole program --------------------------------------------------------------------------------

PROGRAM = """
import uvicorn
from sensevoice.apps.api import create_app
from sensevoice.pipeline import Transcriber
from sensevoice.settings import Settings

app = create_app(Transcriber.load("starter", device="cpu", offline=True), Settings())
config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
listener = config.bind_socket()
listener.listen(64)  # a client may come before the server is ready
print(listener.getsockname()[1], flush=True)
uvicorn.Server(config).run(sockets=[listener])
"""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[str], str]]]:
    """Starts the service on the starter model, always over the same jobs."""
    processes: list[subprocess.Popen[str]] = []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"SENSEVOICE_JOB_DIR": str(tmp_path / "jobs"), "SENSEVOICE_SPOOL_DIR": str(tmp_path / "s")}

    def start() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, env=environment
        )
        processes.append(process)
        assert process.stdout
        return process, f"http://127.0.0.1:{int(process.stdout.readline())}"

    yield start
    for process in processes:
        process.kill()
        process.wait(10)
        assert process.stdout
        process.stdout.close()


def test_the_service_is_killed_in_the_middle_and_every_job_is_done_after_its_restart(
    serve: Callable[[], tuple[subprocess.Popen[str], str]], tmp_path: Path
) -> None:
    clip = sorted((ROOT / "examples").glob("*.mp3"))[0].read_bytes()
    process, url = serve()
    with httpx.Client(base_url=url, timeout=30) as client:
        ids = [client.post("/v1/jobs", files=files(clip, clip)).json()["id"] for _ in range(6)]
        finished(client, ids[0])
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    _, url = serve()
    with httpx.Client(base_url=url, timeout=30) as client:
        for job_id in ids:
            assert finished(client, job_id)["state"] == "done"
        texts = {
            json.loads(client.get(f"/v1/jobs/{job_id}/result?file={i}").text)["text"]
            for job_id in ids
            for i in (0, 1)
        }
    assert len(texts) == 1
    eventually(lambda: list((tmp_path / "jobs" / "spool").iterdir()) == [])
