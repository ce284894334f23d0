"""OpenAI's endpoints, called by OpenAI's own package over HTTP."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fakes import DURATION_S, SEGMENTS, FakeTranscriber, segment
from openai.types.audio import TranscriptionSegment, TranscriptionVerbose
from serving import eventually, left_in_spool, running, settings_in
from test_api import wav_bytes

from sensevoice.apps.api.openai_shapes import words_of
from sensevoice.ctc import Token
from sensevoice.transcript import Segment

CLIP = ("clip.wav", wav_bytes())
TEXT = "今天天气真好，我们去公园走走吧！好啊，听说那里的樱花开了。Let us meet at half past three."


@pytest.fixture
def transcriber() -> FakeTranscriber:
    return FakeTranscriber()


@pytest.fixture
def url(transcriber: FakeTranscriber, tmp_path: Path) -> Iterator[str]:
    with running(transcriber, settings_in(tmp_path, api_keys="sk-test")) as url:
        yield url
        eventually(lambda: left_in_spool(tmp_path) == [])


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-test", max_retries=0) as client:
        yield client


def create(client: Any, **options: Any) -> Any:
    return client.audio.transcriptions.create(**{"file": CLIP, "model": "whisper-1", **options})


def test_json_is_the_default(client: openai.OpenAI, transcriber: FakeTranscriber) -> None:
    reply = create(client, language="zh")
    assert reply.text == TEXT
    assert (reply.usage.type, reply.usage.seconds) == ("duration", DURATION_S)
    assert reply.logprobs is None
    assert transcriber.asked[0].language == "zh"


def test_text_and_subtitles_come_as_plain_strings(client: openai.OpenAI) -> None:
    assert create(client, response_format="text") == f"{TEXT}\n"
    assert create(client, response_format="srt").startswith("1\n00:00:00,400 --> ")
    assert create(client, response_format="vtt").startswith("WEBVTT\n\n")


def test_verbose_json_is_the_official_type_with_emotions_and_events(client: openai.OpenAI) -> None:
    reply = create(client, response_format="verbose_json")
    assert isinstance(reply, TranscriptionVerbose)
    assert (reply.language, reply.duration, reply.text) == ("chinese", DURATION_S, TEXT)
    assert reply.words is None
    assert [one.text for one in reply.segments] == [one.text for one in SEGMENTS]
    assert [one.id for one in reply.segments] == [0, 1, 2, 3]
    for one, known in zip(reply.segments, SEGMENTS, strict=True):
        assert TranscriptionSegment.model_validate(one.model_dump(), strict=True)
        assert (one.start, one.end) == (known.start_s, known.end_s)
        assert (one.emotion, one.emotion_probability) == (known.emotion, known.emotion_probability)
        assert (one.event, one.event_probability) == (known.event, known.event_probability)
    assert reply.segments[0].avg_logprob == pytest.approx(math.log(0.9), abs=1e-6)
    assert [one.no_speech_prob for one in reply.segments] == [0, 0, 0, 0.98]
    assert [one.emotion_uncertain for one in reply.segments] == [False, False, True, False]


@pytest.mark.parametrize("wanted", [["word"], ["segment"], ["word", "segment"]])
def test_timestamps_are_given_as_asked_for(client: openai.OpenAI, wanted: list[Any]) -> None:
    reply = create(client, response_format="verbose_json", timestamp_granularities=wanted)
    assert (reply.words is not None, reply.segments is not None) == ("word" in wanted, "segment" in wanted)


def test_words_with_times_only_come_with_verbose_json(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="response_format=verbose_json"):
        create(client, timestamp_granularities=["word"])


def test_log_probabilities_are_given_token_by_token(client: openai.OpenAI) -> None:
    reply = create(client, include=["logprobs"])
    assert "".join(one.token for one in reply.logprobs) == "".join(one.text for one in SEGMENTS)
    assert {one.logprob for one in reply.logprobs} == {round(math.log(0.9), 6)}
    assert bytes(map(int, reply.logprobs[0].bytes)).decode() == "今"
    with pytest.raises(openai.BadRequestError, match="include"):
        create(client, include=["logprobs"], response_format="text")


def test_a_stream_gives_deltas_that_make_up_the_text(client: openai.OpenAI) -> None:
    with create(client, stream=True, include=["logprobs"]) as stream:
        *deltas, done = stream
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert len(deltas) == 3  # the last segment has no words
    assert "".join(event.delta for event in deltas) == done.text == TEXT
    assert done.type == "transcript.text.done"
    assert [one.token for event in deltas for one in event.logprobs] == [one.token for one in done.logprobs]


def test_deltas_arrive_while_the_rest_is_being_transcribed(url: str, transcriber: FakeTranscriber) -> None:
    transcriber.pause_s = 0.2
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="sk-test") as client,
        create(client, stream=True) as stream,
    ):
        next(iter(stream))
        assert transcriber.reports < len(SEGMENTS)
        assert sum(1 for _ in stream) == 3


def test_the_asynchronous_client_works_too(url: str) -> None:
    async def ask() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-test") as client:
            whole = await create(client)
            async with await create(client, stream=True) as stream:
                events = [event async for event in stream]
            return whole.text, events[-1].text

    assert asyncio.run(ask()) == (TEXT, TEXT)


def test_what_fails_before_the_first_segment_has_a_status_even_in_a_stream(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        create(client, file=("a.txt", b"plain text"), stream=True)
    assert (raised.value.status_code, raised.value.code) == (415, "NotAudioError")


def test_what_fails_in_the_middle_of_a_stream_is_an_event(
    client: openai.OpenAI, transcriber: FakeTranscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(source: object, options: object, on_progress: Any) -> None:
        transcriber._report(on_progress, SEGMENTS[:1])
        raise RuntimeError("/secret/path exploded")

    monkeypatch.setattr(transcriber, "transcribe", break_off)
    with (
        pytest.raises(openai.APIError, match="Something unexpected") as raised,
        create(client, stream=True) as s,
    ):
        assert [event.delta for event in s] == [SEGMENTS[0].text]
    assert "secret" not in str(raised.value.body)


@pytest.mark.parametrize("format", ["srt", "vtt", "verbose_json"])
def test_only_text_can_be_streamed(client: openai.OpenAI, format: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="stream can only be used with"):
        create(client, stream=True, response_format=format)


@pytest.mark.parametrize(
    ("options", "error", "code"),
    [
        ({"language": "xx"}, openai.UnprocessableEntityError, "UnknownLanguageError"),
        ({"response_format": "docx"}, openai.UnprocessableEntityError, "UnknownFormatError"),
        ({"temperature": 3}, openai.UnprocessableEntityError, "InvalidRequest"),
        ({"file": ("a.txt", b"plain text")}, openai.APIStatusError, "NotAudioError"),
    ],
)
def test_errors_have_openais_shape(client: openai.OpenAI, options: Any, error: Any, code: str) -> None:
    with pytest.raises(error) as raised:
        create(client, **options)
    assert raised.value.code == code
    assert raised.value.type == "invalid_request_error"
    assert raised.value.request_id


def test_a_missing_file_is_named_in_param(url: str) -> None:
    reply = httpx.post(
        f"{url}/v1/audio/transcriptions",
        data={"model": "whisper-1"},
        headers={"Authorization": "Bearer sk-test"},
    )
    assert reply.status_code == 422
    assert reply.json()["error"] == {
        **{"message": "file: Field required", "type": "invalid_request_error"},
        **{"param": "file", "code": "InvalidRequest"},
    }


def test_a_wrong_key_is_an_authentication_error(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-wrong") as client:
        with pytest.raises(openai.AuthenticationError) as raised:
            create(client)
        assert raised.value.code == "invalid_api_key"


def test_the_model_is_listed_and_found_by_name(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake-starter"]
    assert client.models.retrieve("fake-starter").owned_by == "tests"
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("gpt-9")
    assert raised.value.code == "model_not_found"


def test_the_stream_ends_as_openais_does(url: str) -> None:
    reply = httpx.post(
        f"{url}/v1/audio/transcriptions",
        files={"file": CLIP},
        data={"stream": "true"},
        headers={"Authorization": "Bearer sk-test"},
    )
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = reply.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(line.removeprefix("data: "))["type"] for line in lines[:-2])


# Words -------------------------------------------------------------------------------------------


def spoken(*pieces: str) -> Segment:
    tokens = tuple(Token(piece, i / 10, (i + 1) / 10, 0.5) for i, piece in enumerate(pieces))
    return segment(0, len(pieces) / 10, "".join(pieces).strip(), tokens=tokens)


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([" The", " air", "port", "."], [("The", 0.0, 0.1), ("airport", 0.1, 0.3)]),
        ([" I", "'", "m", " fine", ",", " twenty", "-", "one"], ["I'm", "fine", "twenty-one"]),
        (["今天", "天", "气", "。"], [("今天", 0.0, 0.1), ("天", 0.1, 0.2), ("气", 0.2, 0.3)]),
        (["用", "C", "PU", "算"], ["用", "CPU", "算"]),
        ([" 실", "례", "지만", " 공", "항"], ["실례지만", "공항"]),
        (["「", "はい", "」", "！"], ["はい"]),
        (["…"], []),
        ([], []),
    ],
)
def test_words_are_assembled_from_tokens(pieces: list[str], words: list[Any]) -> None:
    found = [(word.word, word.start, word.end) for word in words_of([spoken(*pieces)])]
    assert [one if isinstance(words[0], tuple) else one[0] for one in found] == words


def test_no_letter_is_lost_between_tokens_and_words() -> None:
    words = list(words_of(SEGMENTS))
    letters = re.sub(r"[\W_]", "", "".join(one.text for one in SEGMENTS))
    assert re.sub(r"[\W_]", "", "".join(word.word for word in words)) == letters
    assert all(word.start < word.end for word in words)
    starts = [word.start for word in words]
    assert starts == sorted(starts)
