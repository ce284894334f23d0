"""`WS /v1/stream` on a real server, with a real client; and its parts."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import uvicorn
import websockets
from checkpoints import speech_like
from clips import FORMATS, Format, encode, speechlike
from serving import PATIENCE_S
from websockets.asyncio.client import ClientConnection, connect

from sensevoice.apps.api import create_app
from sensevoice.apps.api.inbox import Inbox
from sensevoice.apps.api.serving import make_config
from sensevoice.apps.api.stream import BACKLOG_BYTES, Streams
from sensevoice.audio import decode, decode_blocks
from sensevoice.engine import TorchEngine
from sensevoice.exporters import segment_dict, to_dict
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.options import TranscribeOptions, VadOptions
from sensevoice.pipeline import Transcriber
from sensevoice.settings import Settings
from sensevoice.vad import VoiceActivityDetector

Samples = npt.NDArray[np.float32]
Reply = dict[str, Any]
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RECORDING = speech_like(8, pauses=True, seed=4)
SAFARI = Format(
    "mp4",
    "aac",
    ".mp4",
    rate=48_000,
    muxer={"movflags": "frag_keyframe+empty_moov", "frag_duration": "250000"},
)


@pytest.fixture(scope="module")
def transcriber(small_engine: TorchEngine, small_vad: Path) -> Transcriber:
    return Transcriber(small_engine, VoiceActivityDetector.load(small_vad))


class Server:
    """uvicorn in a thread, on any free port."""

    def __init__(self, transcriber: Transcriber, spool: Path, **settings: Any) -> None:
        chosen = Settings(spool_dir=spool, host="127.0.0.1", port=0, **settings)
        self.app = create_app(transcriber, chosen)
        self._server = uvicorn.Server(make_config(self.app, chosen))
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> Server:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"ws://127.0.0.1:{port}/v1/stream"
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._thread.join(20)

    def end(self) -> None:
        """As SIGTERM does."""
        self._server.should_exit = True

    @property
    def streams(self) -> Streams:
        found: Streams = self.app.state.streams
        return found


@pytest.fixture
def serve(transcriber: Transcriber, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers with the settings given; they end with the test."""
    running: list[Server] = []

    def start(by: Transcriber = transcriber, **settings: Any) -> Server:
        running.append(Server(by, tmp_path / "spool", **settings).__enter__())
        return running[-1]

    yield start
    for server in running:
        server.__exit__()


def pcm(samples: Samples, channels: int = 1) -> bytes:
    values = np.round(samples * 32_767).astype("<i2")
    return np.repeat(values, channels).tobytes()


def as_heard(samples: Samples) -> Samples:
    """The samples that 16-bit PCM carries."""
    heard: Samples = np.frombuffer(pcm(samples), "<i2").astype(np.float32) / np.float32(32_768)
    return heard


def chunked(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


async def replies_of(client: ClientConnection) -> list[Reply]:
    replies: list[Reply] = []
    with suppress(websockets.ConnectionClosedError):  # after an error
        async for message in client:
            replies.append(json.loads(message))
    return replies


async def talk(url: str, chunks: Sequence[bytes | str], pause_s: float = 0.0, **options: Any) -> list[Reply]:
    """Send everything and `stop`, and collect the replies up to the close."""
    async with connect(url, **options) as client:
        listening = asyncio.create_task(replies_of(client))
        try:
            for chunk in chunks:
                await client.send(chunk)
                await asyncio.sleep(pause_s)
            await client.send('{"type": "stop"}')
        except websockets.ConnectionClosed:
            pass
        return await listening


def stream(url: str, chunks: Sequence[bytes | str], **options: Any) -> list[Reply]:
    return asyncio.run(asyncio.wait_for(talk(url, chunks, **options), 30))


def finals(replies: Sequence[Reply]) -> list[Reply]:
    return [reply["segment"] for reply in replies if reply["type"] == "final"]


def fault(replies: Sequence[Reply]) -> tuple[str, str]:
    """(class, sentence) of the error at the end."""
    assert replies[-1]["type"] == "error"
    return replies[-1]["error"]["code"], replies[-1]["error"]["message"]


def rounded(segments: Sequence[Reply]) -> list[Reply]:
    """With probabilities to three digits: the last depends on what else is in the engine's batch."""
    return json.loads(json.dumps(segments), parse_float=lambda number: round(float(number), 3))


def offline(
    transcriber: Transcriber, samples: Samples, options: TranscribeOptions | None = None
) -> list[Reply]:
    return [segment_dict(segment) for segment in transcriber.transcribe(samples, options).segments]


# --- what comes out -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [640, 3_333, 32_000])
def test_pcm_gives_the_segments_of_the_whole_recording(
    serve: Callable[..., Server], transcriber: Transcriber, size: int
) -> None:
    replies = stream(serve().url, chunked(pcm(RECORDING), size))
    assert rounded(finals(replies)) == rounded(offline(transcriber, as_heard(RECORDING)))
    assert len(finals(replies)) == 3
    whole = to_dict(transcriber.transcribe(as_heard(RECORDING)))
    told = {name: whole[name] for name in ("duration_s", "language", "skipped", "model")}
    assert told["skipped"]
    assert replies[-1] == {"type": "done", "segments": 3, **told}


@pytest.mark.parametrize(
    "name", ["webm of a browser", "safari", "ogg opus", "mp3 variable", "wav 16 bit", "flac"]
)
def test_a_file_in_chunks_gives_the_segments_of_the_whole_file(
    serve: Callable[..., Server], transcriber: Transcriber, name: str
) -> None:
    form = SAFARI if name == "safari" else FORMATS[name]
    sound = np.interp(np.arange(0, 5, 1 / form.rate), np.arange(5 * 16_000) / 16_000, RECORDING[: 5 * 16_000])
    file = encode(sound.astype(np.float32), form.rate, form)
    replies = stream(serve().url + "?encoding=container", chunked(file, 1_500))
    heard = np.concatenate(list(decode_blocks(_Unseekable(file), live=True)))  # type: ignore[arg-type]
    assert rounded(finals(replies)) == rounded(offline(transcriber, heard))
    assert finals(replies)
    assert replies[-1]["duration_s"] == pytest.approx(5, abs=0.15)


class _Unseekable:
    """A file as the server sees it."""

    def __init__(self, data: bytes) -> None:
        self._chunks = iter(chunked(data, 1_500))

    def read(self, _: int) -> bytes:
        return next(self._chunks, b"")

    def seekable(self) -> bool:
        return False

    seek = tell = None


@pytest.mark.parametrize("name", ["webm of a browser", "ogg opus", "ogg vorbis", "flac", "wav 16 bit", "aac"])
def test_live_decoding_gives_the_samples_of_the_file(name: str) -> None:
    form = FORMATS[name]
    sound = np.repeat(speech_like(3)[:, None], form.channels, axis=1)
    file = encode(sound, form.rate, form)
    live = np.concatenate([b.copy() for b in decode_blocks(_Unseekable(file), live=True)])  # type: ignore[arg-type]
    np.testing.assert_array_equal(live, decode(file))


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 1), (8_000, 2), (44_100, 2)])
def test_pcm_of_any_rate_and_channels_is_what_decode_makes_of_it(
    serve: Callable[..., Server], transcriber: Transcriber, rate: int, channels: int
) -> None:
    sound = np.interp(np.arange(0, 5, 1 / rate), np.arange(len(RECORDING)) / 16_000, RECORDING)
    data = pcm(sound.astype(np.float32), channels)
    heard = decode((rate, np.frombuffer(data, "<i2").reshape(-1, channels)))
    start = json.dumps({"type": "start", "rate": rate, "channels": channels})
    replies = stream(serve().url, [start, *chunked(data, 4_001)])
    assert rounded(finals(replies)) == rounded(offline(transcriber, heard))
    assert len(finals(replies)) == 2


def test_a_browser_s_recording_is_known_by_its_first_bytes(serve: Callable[..., Server]) -> None:
    form = FORMATS["webm of a browser"]
    file = encode(np.repeat(RECORDING[:48_000], 3), 48_000, form)
    assert stream(serve().url, chunked(file, 700))[-1]["duration_s"] == pytest.approx(3, abs=0.05)


def test_the_wishes_of_the_first_message_and_the_query_are_followed(
    serve: Callable[..., Server], transcriber: Transcriber
) -> None:
    options = TranscribeOptions(
        language="ja",
        use_itn=False,
        vad=VadOptions(max_end_silence_time_ms=300, max_single_segment_time_ms=1_000),
    )
    start = {"type": "start", "max_segment_ms": 1_000, "language": "ja", "drafts": False}
    replies = stream(
        serve().url + "?end_silence_ms=300&use_itn=false&language=en",
        [json.dumps(start), *chunked(pcm(RECORDING), 3_200)],
        pause_s=0.005,
    )
    assert rounded(finals(replies)) == rounded(offline(transcriber, as_heard(RECORDING), options))
    assert {reply["type"] for reply in replies} == {"final", "done"}


def test_the_starter_writes_what_it_writes_of_the_file(serve: Callable[..., Server]) -> None:
    starter = Transcriber.load(str(STARTER_DIRECTORY), device="cpu", offline=True)
    samples = decode(EXAMPLES / "zh.mp3")
    replies = stream(serve(starter).url, chunked(pcm(samples), 3_200))
    expected = offline(starter, as_heard(samples))
    assert [one["text"] for one in finals(replies)] == [one["text"] for one in expected] != []
    assert rounded(finals(replies)) == rounded(expected)


def test_drafts_grow_while_someone_speaks_and_finals_replace_them(serve: Callable[..., Server]) -> None:
    replies = stream(
        serve().url, chunked(pcm(RECORDING[: 5 * 16_000]), 3_200), pause_s=0.05
    )  # twice real time
    kinds = [reply["type"] for reply in replies]
    assert kinds[-1] == "done"
    assert kinds.count("draft") >= 4
    open_since, reached = -1.0, 0.0
    for reply in replies[:-1]:
        if reply["type"] == "final":
            assert open_since in (-1.0, reply["segment"]["start_s"])
            open_since = -1.0
            continue
        assert open_since in (-1.0, reply["start_s"])
        assert reply["end_s"] > reached
        open_since, reached = reply["start_s"], reply["end_s"]


def test_a_final_comes_when_the_speaker_pauses_not_when_the_stream_ends(serve: Callable[..., Server]) -> None:
    async def pause() -> Reply:
        async with connect(serve().url + "?drafts=false") as client:
            for chunk in chunked(pcm(np.append(speech_like(2), np.zeros(24_000, np.float32))), 3_200):
                await client.send(chunk)
            return json.loads(await asyncio.wait_for(client.recv(), 10))

    assert asyncio.run(pause())["type"] == "final"


@pytest.mark.parametrize("chunks", [[], [b""], [b"\0"]])
def test_a_stream_of_nothing_is_done_at_once(serve: Callable[..., Server], chunks: list[bytes]) -> None:
    nothing = {"duration_s": 0.0, "language": "", "skipped": [], "model": "small"}
    done = {"type": "done", "segments": 0, **nothing}
    assert stream(serve().url, chunks) == [done]


def test_streams_side_by_side_are_not_mixed(serve: Callable[..., Server], transcriber: Transcriber) -> None:
    voices = [speech_like(4 + i / 4, pauses=True, seed=10 + i) for i in range(6)]
    url = serve().url

    async def all_of_them() -> list[list[Reply]]:
        return await asyncio.gather(*(talk(url, chunked(pcm(voice), 2_000), 0.002) for voice in voices))

    for voice, replies in zip(voices, asyncio.run(all_of_them()), strict=True):
        assert rounded(finals(replies)) == rounded(offline(transcriber, as_heard(voice)))


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "chunks", "kind", "word"),
    [
        ("language=klingon", [b"\0\0"], "UnknownLanguageError", "klingon"),
        ("rate=7", [b"\0\0"], "OptionError", "rate"),
        ("rate=fast", [b"\0\0"], "OptionError", "rate"),
        ("channels=0", [b"\0\0"], "OptionError", "channels"),
        ("colour=red", [b"\0\0"], "OptionError", "colour"),
        ("", ['{"type": "start", "max_segment_ms": 1}'], "OptionError", "max_segment_ms"),
        ("", ["hello"], "OptionError", "JSON"),
        ("", ["[]"], "OptionError", "JSON"),
        ("", ["[" * 100_000], "OptionError", "JSON"),
        ("", ['{"type": "sing"}'], "OptionError", "sing"),
        ("", [b"\0\0", '{"type": "start"}'], "OptionError", "start"),
        ("encoding=container", [b"no recording at all" * 999], "NotAudioError", "recording"),
        ("", [b"OggS" + bytes(5_000)], "NotAudioError", "recording"),
        ("", [b"\0" * 600_000], "MessageTooLargeError", "512 KiB"),
    ],
)
def test_what_cannot_be_used_is_answered_with_our_error(
    serve: Callable[..., Server], query: str, chunks: list[bytes | str], kind: str, word: str
) -> None:
    code, sentence = fault(stream(f"{serve().url}?{query}", chunks))
    assert code == kind
    assert word in sentence


def test_an_mp4_whose_index_comes_last_is_refused_with_the_reason(serve: Callable[..., Server]) -> None:
    file = encode(speechlike(10, 44_100), 44_100, FORMATS["m4a"])
    code, sentence = fault(stream(serve().url, chunked(file, 9_000)))
    assert (code, "index" in sentence) == ("NotAudioError", True)


@pytest.mark.parametrize(
    ("query", "chunk", "close"),
    [("rate=7", b"\0\0", 1008), ("encoding=container", b"nothing" * 99, 1003), ("", b"\0" * 600_000, 1009)],
)
def test_the_close_code_says_what_kind_of_error_it_was(
    serve: Callable[..., Server], query: str, chunk: bytes, close: int
) -> None:
    async def code() -> int | None:
        async with connect(f"{serve().url}?{query}") as client:
            await client.send(chunk)
            await client.send('{"type": "stop"}')
            await replies_of(client)
            return client.close_code

    assert asyncio.run(code()) == close


def test_a_stream_beyond_the_limit_ends_with_an_error_after_its_finals(
    serve: Callable[..., Server], transcriber: Transcriber
) -> None:
    server = serve(stream_max_duration_s=3.0)
    replies = stream(server.url, chunked(pcm(speech_like(5)), 3_200))
    assert [reply["type"] for reply in replies if reply["type"] != "draft"] == ["final", "error"]
    assert fault(replies)[0] == "AudioTooLongError"
    expected = offline(transcriber, as_heard(speech_like(5))[: 3 * 16_000])
    assert rounded(finals(replies)) == rounded(expected)


def test_a_silent_client_is_let_go_with_all_that_it_said(serve: Callable[..., Server]) -> None:
    async def fall_silent() -> list[Reply]:
        async with connect(serve(stream_idle_s=0.5).url + "?drafts=false") as client:
            await client.send(pcm(speech_like(2)))
            return await replies_of(client)

    replies = asyncio.run(fall_silent())
    assert [reply["type"] for reply in replies] == ["final", "error"]
    assert fault(replies)[0] == "StreamIdleError"


def test_when_the_service_ends_a_stream_gets_the_finals_of_all_that_it_sent(
    serve: Callable[..., Server], transcriber: Transcriber
) -> None:
    server = serve()

    async def talk_on() -> tuple[list[Reply], int | None]:
        async with connect(server.url + "?drafts=false") as client:
            await client.send(pcm(RECORDING))
            await until(lambda: hasattr(server.app.state, "streams") and server.streams.open == 1)
            server.end()
            return await replies_of(client), client.close_code

    replies, code = asyncio.run(talk_on())
    assert rounded(finals(replies)) == rounded(offline(transcriber, as_heard(RECORDING)))
    assert (fault(replies)[0], code) == ("ShuttingDownError", 1012)


def test_a_stream_that_has_been_stopped_is_done_although_the_service_ends(
    serve: Callable[..., Server],
) -> None:
    server = serve()

    async def stop() -> tuple[list[Reply], int | None]:
        async with connect(server.url) as client:
            await until(lambda: hasattr(server.app.state, "streams"))
            with server.streams.turn, server.streams.turn:  # its last words have to wait for both
                await client.send(pcm(speech_like(2)))
                await client.send('{"type": "stop"}')
                server.end()
                await asyncio.sleep(0.3)
            return await replies_of(client), client.close_code

    replies, code = asyncio.run(stop())
    assert (replies[-1]["type"], code) == ("done", 1000)


def test_no_more_streams_than_allowed_are_open_and_a_place_is_free_again_at_once(
    serve: Callable[..., Server],
) -> None:
    server = serve(stream_max_streams=2)

    async def crowd() -> tuple[list[Reply], list[Reply]]:
        async with connect(server.url) as one, connect(server.url) as two:
            await one.send(b"\0\0")
            await two.send(b"\0\0")
            refused = await talk(server.url, [b"\0\0"])
        await until(lambda: server.streams.open == 0)
        return refused, await talk(server.url, [b"\0\0"])

    refused, welcome = asyncio.run(crowd())
    assert fault(refused)[0] == "TooManyStreamsError"
    assert welcome[-1]["type"] == "done"


async def until(condition: Callable[[], bool], limit_s: float = 5.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("query", "more", "welcome"),
    [
        ("", {}, False),
        ("?key=s3cret", {}, False),  # addresses end in logs
        ("", {"additional_headers": {"Authorization": "Bearer s3cret"}}, True),
        ("", {"subprotocols": ["sensevoice", "sensevoice-key.s3cret"]}, True),
        ("", {"subprotocols": ["sensevoice", "sensevoice-key.other"]}, False),
    ],
)
def test_a_key_is_taken_from_the_header_or_the_subprotocol(
    serve: Callable[..., Server], query: str, more: dict[str, Any], welcome: bool
) -> None:
    server = serve(api_keys=("s3cret",))
    if welcome:
        assert stream(server.url + query, [b"\0\0"], **more)[-1]["type"] == "done"
    else:
        with pytest.raises(websockets.InvalidStatus, match="403"):
            stream(server.url + query, [], **more)


@pytest.mark.parametrize(
    ("origin", "settings", "welcome"),
    [
        ("http://{host}", {}, True),
        ("https://a.example", {}, False),
        ("null", {}, False),  # a file, or a frame in a sandbox
        ("https://a.example", {"cors_origins": ("https://a.example",)}, True),
        ("https://b.example", {"cors_origins": ("https://a.example",)}, False),
        ("https://b.example", {"cors_origins": ("*",)}, True),
    ],
)
def test_only_the_service_s_own_pages_and_those_named_may_open_a_stream(
    serve: Callable[..., Server], origin: str, settings: dict[str, Any], welcome: bool
) -> None:
    url = serve(**settings).url
    named = origin.format(host=url.split("/")[2])
    if welcome:
        assert stream(url, [b"\0\0"], origin=named)[-1]["type"] == "done"
    else:
        with pytest.raises(websockets.InvalidStatus, match="403"):
            stream(url, [], origin=named)


class _Wrapped:
    """An engine that is another in all but what a subclass changes."""

    def __init__(self, engine: TorchEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class _Failing(_Wrapped):
    """An engine that always fails in the same way."""

    def __init__(self, engine: TorchEngine, error: Exception) -> None:
        super().__init__(engine)
        self._error = error

    def recognise(self, *_: Any) -> Any:
        raise self._error


@pytest.mark.parametrize(
    ("error", "kind"),
    [(RuntimeError("/secret/path"), "InternalError"), (torch.OutOfMemoryError(), "MemoryFullError")],
)
def test_a_failure_of_the_model_is_an_error_that_tells_no_secrets_and_is_counted(
    serve: Callable[..., Server], transcriber: Transcriber, error: Exception, kind: str
) -> None:
    server = serve(replace(transcriber, engine=_Failing(transcriber.engine, error)))  # type: ignore[arg-type]
    replies = stream(server.url, [pcm(speech_like(2))])
    assert fault(replies)[0] == kind
    assert "secret" not in str(replies)
    metrics = server.app.state.service.metrics.text().decode()
    assert f'sensevoice_errors_total{{kind="{kind}"}} 1.0' in metrics
    assert "sensevoice_streams 0.0" in metrics


def test_a_client_that_sends_what_holds_no_sound_is_not_listened_to_for_ever(
    serve: Callable[..., Server],
) -> None:
    server = serve(stream_max_duration_s=0.3, stream_idle_s=0.3)

    async def trickle() -> list[Reply]:
        return await talk(server.url, [b""] * 100, 0.05)

    start = time.monotonic()
    assert fault(asyncio.run(trickle()))[0] == "AudioTooLongError"
    assert time.monotonic() - start < 4


# --- what it holds --------------------------------------------------------------------------------------


class _Slow(_Wrapped):
    """An engine that takes its time."""

    def __init__(self, engine: TorchEngine, pause_s: float) -> None:
        super().__init__(engine)
        self.pause_s, self.calls = pause_s, 0

    def recognise(self, *arguments: Any) -> Any:
        self.calls += 1
        time.sleep(self.pause_s)
        return self._engine.recognise(*arguments)


class _Held(_Wrapped):
    """An engine that recognises nothing before it is told to."""

    def __init__(self, engine: TorchEngine) -> None:
        super().__init__(engine)
        self.begun, self.released = threading.Event(), threading.Event()

    def recognise(self, *arguments: Any) -> Any:
        self.begun.set()
        assert self.released.wait(PATIENCE_S)
        return self._engine.recognise(*arguments)


def inboxes() -> list[Inbox]:
    return [thing for thing in gc.get_objects() if type(thing) is Inbox]


def stream_threads() -> int:
    return sum(thread.name == "stream" for thread in threading.enumerate())


def test_a_client_that_disconnects_frees_everything_at_once(
    serve: Callable[..., Server], transcriber: Transcriber
) -> None:
    before = inboxes()  # of tests that keep an exception
    slow = _Slow(transcriber.engine, 0.2)  # type: ignore[arg-type]
    server = serve(replace(transcriber, engine=slow))  # type: ignore[arg-type]

    async def vanish() -> int:
        async with connect(server.url) as client:
            for chunk in chunked(pcm(speech_like(20, pauses=True)), 32_000)[:6]:
                await client.send(chunk)
            await until(lambda: slow.calls > 0)
            client.transport.abort()
        await until(lambda: server.streams.open == 0 and stream_threads() == 0, 1.0)
        return slow.calls

    calls = asyncio.run(vanish())
    time.sleep(0.3)
    assert slow.calls == calls
    gc.collect()
    assert [inbox for inbox in inboxes() if inbox not in before] == []


def test_a_server_that_falls_behind_reads_no_further(
    serve: Callable[..., Server], transcriber: Transcriber
) -> None:
    """The model hangs: what was sent waits with the client, in the network, and up to a limit with us."""
    slow = _Slow(transcriber.engine, 2.0)  # type: ignore[arg-type]
    server = serve(replace(transcriber, engine=slow))  # type: ignore[arg-type]
    second = pcm(speech_like(1))

    async def flood() -> int:
        sent = 0
        async with connect(server.url, write_limit=1) as client:
            try:
                while sent < 1_000:
                    await asyncio.wait_for(client.send(second * 8), 0.7)
                    sent += 8
            except asyncio.TimeoutError:
                pass
            client.transport.abort()
        return sent

    seconds = asyncio.run(flood())
    assert seconds < 1_000  # 32 MB would have been taken otherwise
    half_a_minute = 30 * len(second)  # the first segment, at whose end the model hangs
    assert all(inbox.received <= half_a_minute + BACKLOG_BYTES + 3 * 8 * len(second) for inbox in inboxes())
    slow.pause_s = 0.0  # or the server would end only after all that it has taken


def test_nobody_waits_while_streams_are_recognised(
    serve: Callable[..., Server], transcriber: Transcriber
) -> None:
    held = _Held(transcriber.engine)  # type: ignore[arg-type]
    server = serve(replace(transcriber, engine=held))  # type: ignore[arg-type]

    async def ping() -> None:
        talks = [
            asyncio.create_task(talk(server.url, chunked(pcm(RECORDING[:48_000]), 3_200))) for _ in range(4)
        ]
        try:
            assert await asyncio.to_thread(held.begun.wait, PATIENCE_S)
            async with connect(server.url) as client:
                for _ in range(20):
                    await asyncio.wait_for(await client.ping(), PATIENCE_S / 2)
                assert not any(task.done() for task in talks)
        finally:
            held.released.set()
        await asyncio.gather(*talks)

    asyncio.run(ping())


def test_no_drafts_are_queued_by_a_client_that_sends_faster_than_real_time(
    serve: Callable[..., Server], transcriber: Transcriber
) -> None:
    slow = _Slow(transcriber.engine, 0.05)  # type: ignore[arg-type]
    replies = stream(
        serve(replace(transcriber, engine=slow)).url,  # type: ignore[arg-type]
        chunked(pcm(speech_like(20)), 3_200),
    )
    assert sum(reply["type"] == "draft" for reply in replies) <= 10  # of the 50 that real time would bring
    assert replies[-1]["type"] == "done"


# --- the inbox ------------------------------------------------------------------------------------------


@asynccontextmanager
async def reading(inbox: Inbox, size: int) -> AsyncIterator[Awaitable[bytes]]:
    """A thread that reads to the end, `size` bytes at a time."""

    def read() -> bytes:
        return b"".join(iter(lambda: inbox.read(size) or b"", b""))

    yield asyncio.ensure_future(asyncio.to_thread(read))


def test_what_goes_into_the_inbox_comes_out_in_order() -> None:
    async def pass_on() -> None:
        inbox = Inbox(1_000)
        data = np.random.default_rng(0).bytes(50_000)
        async with reading(inbox, 333) as result:
            for chunk in chunked(data, 777):
                await inbox.put(chunk)
                assert len(inbox._pending) < 1_000 + 777
            inbox.end()
            assert await result == data

    asyncio.run(pass_on())


def test_a_full_inbox_makes_the_writer_wait_until_it_is_read_or_given_up() -> None:
    async def fill() -> None:
        inbox = Inbox(10)
        await inbox.put(b"0123456789")
        writer = asyncio.ensure_future(inbox.put(b"more"))
        await asyncio.sleep(0.05)
        assert not writer.done()
        assert inbox.read(4) == b"0123"
        await asyncio.wait_for(writer, 1)
        assert inbox.peek(3) == b"456"
        inbox.abort()
        assert (inbox.read(4), inbox.peek(3), inbox.waiting) == (b"", b"", False)

    asyncio.run(fill())
