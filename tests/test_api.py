from __future__ import annotations

import inspect
import io
import json
import re
import tempfile
import threading
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import SEGMENTS, FakeTranscriber
from fastapi.testclient import TestClient
from pydantic import BaseModel
from serving import settings_in

from sensevoice import errors
from sensevoice.apps.api import STATUS, create_app
from sensevoice.apps.api.uploads import FORM_OVERHEAD_BYTES
from sensevoice.exporters import to_dict
from sensevoice.options import LANGUAGES
from sensevoice.settings import Settings


def wav_bytes(seconds: float = 0.1) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(b"\0\0" * round(16_000 * seconds))
    return buffer.getvalue()


@pytest.fixture
def transcriber() -> FakeTranscriber:
    return FakeTranscriber()


@pytest.fixture
def client(transcriber: FakeTranscriber, tmp_path: Path) -> Iterator[TestClient]:
    app = create_app(transcriber, settings_in(tmp_path, max_upload_mb=1))  # type: ignore[arg-type]
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def upload(client: TestClient, content: bytes, **fields: str) -> tuple[int, dict]:
    reply = client.post("/transcribe", files={"file": ("clip.wav", content)}, data=fields)
    return reply.status_code, reply.json()


def test_a_recording_comes_back_as_the_exporters_json(
    client: TestClient, transcriber: FakeTranscriber
) -> None:
    status, body = upload(client, wav_bytes(), lang="zh")
    assert status == 200
    assert [segment["text"] for segment in body["segments"]] == [segment.text for segment in SEGMENTS]
    expected = to_dict(transcriber.transcribe(wav_bytes(), transcriber.asked[0]))
    assert body == json.loads(json.dumps(expected))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_language_reaches_the_transcriber(
    client: TestClient, transcriber: FakeTranscriber, lang: str
) -> None:
    assert upload(client, wav_bytes(), lang=lang)[0] == 200
    assert transcriber.asked[0].language == lang


def test_without_a_language_the_settings_decide(transcriber: FakeTranscriber) -> None:
    app = create_app(transcriber, Settings(language="yue", max_duration_s=60))  # type: ignore[arg-type]
    assert upload(TestClient(app), wav_bytes())[0] == 200
    assert (transcriber.asked[0].language, transcriber.asked[0].max_duration_s) == ("yue", 60)


def test_an_unknown_language_is_refused_with_the_choices(
    client: TestClient, transcriber: FakeTranscriber
) -> None:
    status, body = upload(client, wav_bytes(), lang="klingon")
    assert (status, body["error"]["type"]) == (422, "UnknownLanguageError")
    assert all(choice in body["error"]["message"] for choice in LANGUAGES)
    assert transcriber.asked == []


def test_a_file_that_is_not_audio_is_refused_with_a_sentence(client: TestClient) -> None:
    status, body = upload(client, b"plain text")
    assert (status, body["error"]["type"]) == (415, "NotAudioError")
    assert body["error"]["message"].startswith("the recording cannot be read as a recording")


def test_a_request_without_a_file_says_which_field_is_missing(client: TestClient) -> None:
    reply = client.post("/transcribe", data={"lang": "zh"})
    assert (reply.status_code, reply.json()["error"]["message"]) == (422, "file: Field required")


def test_every_error_class_has_a_status() -> None:
    classes = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.SenseVoiceError)
    }
    assert set(STATUS) == classes
    assert all(400 <= status < 600 for status in STATUS.values())


def test_each_error_is_answered_with_its_status(client: TestClient, transcriber: FakeTranscriber) -> None:
    for error in (
        errors.AudioTooLongError("a", 60),
        errors.EmptyAudioError("a"),
        errors.ModelFileError("m", "r"),
    ):
        transcriber.error = error
        status, body = upload(client, wav_bytes())
        assert status == STATUS[type(error)]
        assert body == {"error": {"type": type(error).__name__, "message": str(error)}}


def test_an_unexpected_error_gives_nothing_away(client: TestClient, transcriber: FakeTranscriber) -> None:
    transcriber.error = RuntimeError("/secret/path exploded")
    status, body = upload(client, wav_bytes())
    assert (status, body["error"]["type"]) == (500, "InternalError")
    assert "secret" not in json.dumps(body)


def test_an_upload_over_the_limit_is_refused_before_it_is_read(
    client: TestClient, transcriber: FakeTranscriber
) -> None:
    status, body = upload(client, b"RIFF" + bytes(2**20 + FORM_OVERHEAD_BYTES))
    assert status == 413
    assert body["error"]["message"].startswith("The upload is larger than the limit of 1 MB.")
    assert transcriber.asked == []


def test_an_upload_that_hides_its_length_is_cut_off_at_the_limit(
    client: TestClient, transcriber: FakeTranscriber
) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF'
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        yield head
        for _ in range(64):
            sent += 2**17
            yield bytes(2**17)
        yield b"\r\n--x--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=x"}
    reply = client.post("/transcribe", content=body(), headers=headers)
    assert (reply.status_code, transcriber.asked) == (413, [])


def test_an_upload_just_under_the_limit_is_taken(client: TestClient) -> None:
    assert upload(client, wav_bytes() + bytes(2**20 - len(wav_bytes())))[0] == 200


@pytest.mark.parametrize("content", [wav_bytes(40), b"not audio" * 300_000, b""])
def test_nothing_of_an_upload_stays_on_disk(
    transcriber: FakeTranscriber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    elsewhere, spool = tmp_path / "tmp", tmp_path / "spool"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    app = create_app(transcriber, Settings(max_upload_mb=8, spool_dir=spool))  # type: ignore[arg-type]
    upload(TestClient(app), content)
    assert [*elsewhere.iterdir(), *spool.iterdir()] == []


def test_health_answers_while_a_recording_is_being_transcribed(tmp_path: Path) -> None:
    slow = FakeTranscriber(pause_s=0.3)
    with TestClient(create_app(slow, settings_in(tmp_path))) as client:  # type: ignore[arg-type]
        work = threading.Thread(target=upload, args=(client, wav_bytes()))
        work.start()
        while not slow.asked:
            time.sleep(0.01)
        reply = client.get("/health")
        assert work.is_alive()
        work.join()
    assert reply.json()["status"] == "ok"
    assert reply.json()["model"] == "fake-starter"


def test_many_recordings_at_once_all_come_back(tmp_path: Path) -> None:
    replies: list[int] = []
    with TestClient(create_app(FakeTranscriber(pause_s=0.02), settings_in(tmp_path))) as client:  # type: ignore[arg-type]
        work = [
            threading.Thread(target=lambda: replies.append(upload(client, wav_bytes())[0])) for _ in range(8)
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
    assert replies == [200] * 8


def named_in(schema: Any) -> Iterator[str]:
    """The models that a schema refers to itself."""
    options = [schema, *schema.get("anyOf", ())]
    return (one["$ref"].rpartition("/")[2] for one in options if "$ref" in one)


def test_every_reply_is_typed_and_shown_by_an_example_that_is_true_to_it(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    shown = set()
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            good = [reply for code, reply in operation["responses"].items() if code < "300"]
            contents = [content for reply in good for content in reply.get("content", {}).items()]
            assert contents or method == "delete", path
            for media_type, content in contents:
                names = list(named_in(content["schema"]))
                assert names if media_type == "application/json" else content["schema"] == {"type": "string"}
                shown |= set(names)
    assert {"TranscriptReply", "JobReply", "JobPage", "OpenAIVerboseTranscription"} <= shown
    models = {kind.__name__: kind for kind in subclasses(BaseModel)}
    for name in shown:
        assert schema["components"]["schemas"][name]["example"], name
        example = models[name].model_config["json_schema_extra"]["example"]
        assert models[name].model_validate(example).model_dump(mode="json", exclude_unset=True) == example, (
            name
        )
        assert {key for key, one in models[name].model_fields.items() if one.is_required()} <= example.keys()


def subclasses(kind: type) -> Iterator[type]:
    for one in kind.__subclasses__():
        if one.__module__.startswith("sensevoice.apps.api"):
            yield one
        yield from subclasses(one)


def test_the_docs_load_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs").text
    assets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(assets) == 3
    for asset in assets:
        assert asset.startswith("/docs/assets/")
        assert client.get(asset).status_code == 200
    assert client.get("/redoc").status_code == 404
    assert "/transcribe" in client.get("/openapi.json").json()["paths"]
