"""`WS /v1/stream`: sound in, text out while somebody speaks.

    {"type": "start", "language": "zh"}          optional first message; the query may say the same
    <binary>                                     16-bit PCM, or the bytes of a webm, ogg, mp3, wav, ... file
    {"type": "stop"}                             the end: what is still open becomes final

    {"type": "draft", "text": "今天天", ...}       the open segment so far; the next of these replaces it
    {"type": "final", "segment": {...}}          as `/transcribe` gives it
    {"type": "done", "duration_s": 8.4, ...}     the last message, before the connection closes: the language
                                                 of most speech and what was skipped, as `/transcribe` says them
    {"type": "error", "error": {...}}            or this, after the finals of all that could be used; when the
                                                 service is about to end, too (closed with 1012 then)

Each stream has a thread of its own, which reads from a bounded inbox. As many of them as there are workers
recognise at a time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar, cast

from fastapi import APIRouter, WebSocket
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.websockets import WebSocketDisconnect

from sensevoice.apps.api.access import KEY_PROTOCOL
from sensevoice.apps.api.errors import error_body, expected, status_of
from sensevoice.apps.api.inbox import Inbox
from sensevoice.apps.api.service import Service, service_of
from sensevoice.apps.api.serving import ENDING
from sensevoice.apps.api.work import AbandonedError
from sensevoice.audio import SAMPLE_RATE, decode_blocks, decode_pcm
from sensevoice.errors import (
    AudioError,
    AudioTooLongError,
    EmptyAudioError,
    MessageTooLargeError,
    NotAudioError,
    OptionError,
    SenseVoiceError,
    ShuttingDownError,
    StreamIdleError,
    TooManyStreamsError,
)
from sensevoice.exporters import segment_dict, to_dict
from sensevoice.options import TranscribeOptions, VadOptions
from sensevoice.runtime import stand_back
from sensevoice.spans import Span
from sensevoice.streaming import StreamingTranscriber
from sensevoice.strings import error_text
from sensevoice.transcript import make_transcript
from sensevoice.vad import gaps_between

if TYPE_CHECKING:
    from sensevoice.audio import Samples
    from sensevoice.transcript import Segment

T = TypeVar("T")
log = logging.getLogger(__name__)

router = APIRouter()

BACKLOG_BYTES = 256 * 1024  # 8 s of PCM at 16 kHz
READ_BYTES = 32 * 1024
LAST_WORD_S = 10.0
BYTES_PER_KB = 1024

# Four bytes each, so that no PCM is mistaken for them; an mp3 without an ID3 tag has only two.
MAGIC = (b"\x1aE\xdf\xa3", b"OggS", b"RIFF", b"RF64", b"fLaC", b"FORM", b"caff")
MAGIC_BYTES = 8

# RFC 6455, 7.4.1, and https://www.iana.org/assignments/websocket
NORMAL, UNSUPPORTED_DATA, POLICY_VIOLATION, TOO_LARGE = 1000, 1003, 1008, 1009
INTERNAL, SERVICE_RESTART, TRY_LATER = 1011, 1012, 1013
CLOSE_CODES = {413: TOO_LARGE, 415: UNSUPPORTED_DATA, 503: TRY_LATER}


class StreamRequest(BaseModel):
    """What a client may ask for, in the query or in its first message."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # what is sent
    encoding: Literal["auto", "pcm", "container"] = "auto"  # auto: PCM, unless it starts like a file
    rate: int = Field(16_000, ge=1_000, le=384_000)  # of PCM, Hz
    channels: int = Field(1, ge=1, le=16)  # of PCM, interleaved
    # what is wanted
    language: str = "auto"
    allowed_languages: tuple[str, ...] = ()
    use_itn: bool = True
    ban_emo_unk: bool = False
    drafts: bool = True
    # where segments end
    end_silence_ms: int = Field(800, ge=100, le=10_000)
    max_segment_ms: int = Field(30_000, ge=1_000, le=60_000)

    @field_validator("allowed_languages", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    def options(self, max_duration_s: float) -> TranscribeOptions:
        """For the recogniser; UnknownLanguageError for a language that it does not know."""
        return TranscribeOptions(
            language=self.language,
            allowed_languages=self.allowed_languages,
            use_itn=self.use_itn,
            ban_emo_unk=self.ban_emo_unk,
            max_duration_s=max_duration_s,
            vad=VadOptions(
                max_end_silence_time_ms=self.end_silence_ms, max_single_segment_time_ms=self.max_segment_ms
            ),
        )


class Streams:
    """All live streams of one application."""

    def __init__(self, limit: int, workers: int) -> None:
        self.limit, self.open = limit, 0
        self.turn = threading.BoundedSemaphore(workers)  # to recognise

    @classmethod
    def of(cls, websocket: WebSocket) -> Streams:
        """The application's own."""
        state = websocket.app.state
        if not hasattr(state, "streams"):
            service = service_of(websocket)
            state.streams = streams = cls(service.settings.stream_max_streams, service.work.workers)
            service.metrics.watch("streams", "Live streams that are open", lambda: streams.open)
        return cast("Streams", state.streams)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Count one stream; TooManyStreamsError if there are as many as allowed."""
        if self.open >= self.limit:
            raise TooManyStreamsError(self.limit)
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


@router.websocket("/v1/stream")
async def stream(websocket: WebSocket) -> None:
    """Transcribe what the client sends until it stops, disconnects, or does something that it must not."""
    offered = websocket.scope.get("subprotocols", ())
    await websocket.accept(next((name for name in offered if not name.startswith(KEY_PROTOCOL)), None))
    streams = Streams.of(websocket)
    try:
        with streams.place():
            done = await Session(websocket, service_of(websocket), streams).run()
        await _close(websocket, done, NORMAL)
    except WebSocketDisconnect:
        log.debug("the client of a live stream went away")
    except Exception as error:
        await _refuse(websocket, error)


async def _refuse(websocket: WebSocket, error: Exception) -> None:
    """Say why the stream ends; nothing of what nobody expected."""
    error = cast("Exception", expected(error))
    kind, status, sentence = "InternalError", 500, error_text(error, "en")
    if isinstance(error, SenseVoiceError):
        kind, status, sentence = type(error).__name__, status_of(error), str(error)
    else:
        log.error("a live stream failed", exc_info=error)
    websocket.scope["error_kind"] = kind
    body = error_body(websocket.url.path, status, kind, sentence)
    await _close(websocket, {"type": "error", **body}, _close_code(error, status))


def _close_code(error: Exception, status: int) -> int:
    if isinstance(error, ShuttingDownError):
        return SERVICE_RESTART
    return CLOSE_CODES.get(status, INTERNAL if status >= 500 else POLICY_VIOLATION)


async def _close(websocket: WebSocket, message: dict[str, object], code: int) -> None:
    """Send the last message, unless the client has gone or takes nothing any more."""
    with suppress(WebSocketDisconnect, RuntimeError, asyncio.TimeoutError):
        await asyncio.wait_for(websocket.send_json(message), LAST_WORD_S)
        await websocket.close(code)


class Session:
    """One live stream: what the event loop does is `async`, the rest happens in the stream's thread."""

    def __init__(self, websocket: WebSocket, service: Service, streams: Streams) -> None:
        self._websocket, self._service, self._streams = websocket, service, streams
        self._settings = service.settings
        self._loop = asyncio.get_running_loop()
        self._inbox = Inbox(BACKLOG_BYTES)
        self._segments: list[Segment] = []  # without their tokens, which are a hundred times as large

    async def run(self) -> dict[str, object]:
        """The whole stream, up to its last message, which is returned; its thread has ended then.

        Raises WebSocketDisconnect, or what the client is to be told.
        """
        request, first = await self._opening()
        options = request.options(min(self._settings.max_duration_s, self._settings.stream_max_duration_s))
        worker = asyncio.wrap_future(in_thread(lambda: self._work(request, options)))
        reader = asyncio.ensure_future(self._read_in_time(first))
        both: set[asyncio.Future[Any]] = {worker, reader}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not (worker.done() or _has_gone(reader)):
                self._inbox.end()
                await asyncio.wait({worker})
        finally:
            reader.cancel()
            self._inbox.abort()
            await asyncio.wait(both)
        return _outcome(worker, reader)

    # in the event loop -----------------------------------------------------------------------------

    async def _opening(self) -> tuple[StreamRequest, dict[str, Any]]:
        """What is asked for, and the first message that says nothing of it."""
        wishes: dict[str, Any] = {"language": self._settings.language, **self._websocket.query_params}
        message = await self._receive()
        if _command(message).get("type") == "start":
            wishes |= {key: value for key, value in _command(message).items() if key != "type"}
            message = await self._receive()
        try:
            return StreamRequest.model_validate(wishes), message
        except ValidationError as error:
            faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            raise OptionError("; ".join(faults)) from error

    async def _read_in_time(self, message: dict[str, Any]) -> None:
        """`_read`, but not for ever: what is sent need not hold any sound."""
        limit_s = self._settings.stream_max_duration_s
        try:
            await asyncio.wait_for(self._read(message), limit_s + self._settings.stream_idle_s)
        except StreamIdleError:  # a TimeoutError itself
            raise
        except asyncio.TimeoutError:
            raise AudioTooLongError("the recording", limit_s) from None

    async def _read(self, message: dict[str, Any]) -> None:
        """Move what the client sends to the inbox; ends with an exception."""
        while (command := _command(message).get("type")) is None:
            await self._inbox.put(message.get("bytes") or b"")
            message = await self._receive()
        if command != "stop":
            raise OptionError(f"Unknown message type {command!r}: after the first, only 'stop' is known.")
        self._inbox.end()
        while True:  # until the client has all results, or goes away
            _check_connected(await self._websocket.receive())

    async def _receive(self) -> dict[str, Any]:
        try:
            message = await asyncio.wait_for(self._websocket.receive(), self._settings.stream_idle_s)
        except asyncio.TimeoutError:
            raise StreamIdleError(self._settings.stream_idle_s) from None
        _check_connected(message)
        if ENDING in message:
            raise ShuttingDownError
        size = len(message.get("bytes") or message.get("text") or "")
        if size > self._settings.stream_max_message_kb * BYTES_PER_KB:
            raise MessageTooLargeError(self._settings.stream_max_message_kb)
        return cast("dict[str, Any]", message)

    # in the stream's thread ------------------------------------------------------------------------

    def _work(self, request: StreamRequest, options: TranscribeOptions) -> dict[str, object]:
        """Decode, recognise and send until the inbox ends."""
        stream = StreamingTranscriber(
            self._service.transcriber, options, draft_every_ms=self._settings.stream_draft_every_ms
        )
        fault: AudioError | None = None
        try:
            for block in _up_to(options.max_duration_s, _blocks(self._inbox, request)):
                self._add(stream, block, request.drafts)
        except AudioError as error:
            fault = error
        self._check()
        with self._streams.turn:
            finalised = stream.finish()
        self._send_final(finalised)
        self._note(stream.duration_s)
        if fault is not None:
            raise fault
        return self._summary(stream.duration_s)

    def _add(self, stream: StreamingTranscriber, block: Samples, drafts: bool) -> None:
        self._check()
        with self._streams.turn:
            finalised, draft = stream.add(block, draft=drafts and not self._inbox.waiting)
        self._send_final(finalised)
        if draft is not None:
            self._send({"type": "draft", **_draft_dict(draft)})

    def _send_final(self, segments: tuple[Segment, ...]) -> None:
        for segment in segments:
            self._segments.append(replace(segment, tokens=()))
            self._send({"type": "final", "segment": segment_dict(segment)})

    def _send(self, message: dict[str, object]) -> None:
        """Wait until the client takes it: one that reads nothing gets no more work done."""
        self._check()
        sent = asyncio.run_coroutine_threadsafe(self._websocket.send_json(message), self._loop)
        try:
            sent.result(self._settings.stream_idle_s)
        except concurrent.futures.TimeoutError:
            sent.cancel()
            raise StreamIdleError(self._settings.stream_idle_s) from None
        except Exception as error:
            raise AbandonedError from error

    def _check(self) -> None:
        if self._inbox.aborted:
            raise AbandonedError

    def _note(self, duration_s: float) -> None:
        self._service.metrics.audio_seconds.inc(duration_s)
        fields = {"audio_s": round(duration_s, 3), "segments": len(self._segments)}
        log.info("streamed", extra={"fields": fields})

    def _summary(self, duration_s: float) -> dict[str, object]:
        spans = [Span(round(1000 * one.start_s), round(1000 * one.end_s)) for one in self._segments]
        whole = make_transcript(
            self._segments,
            duration_s=duration_s,
            skipped=gaps_between(spans, round(1000 * duration_s)),
            model=self._service.transcriber.info.name,
        )
        facts = to_dict(whole)
        told = {name: facts[name] for name in ("duration_s", "language", "skipped", "model")}
        return {"type": "done", "segments": len(self._segments), **told}


def in_thread(work: Callable[[], T]) -> concurrent.futures.Future[T]:
    """Do `work` in a new thread, which does not keep the program alive."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()
    context = contextvars.copy_context()  # the thread's log lines then carry the request's id

    def run() -> None:
        stand_back()
        try:
            future.set_result(context.run(work))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="stream", daemon=True).start()
    return future


def _outcome(worker: asyncio.Future[dict[str, object]], reader: asyncio.Future[None]) -> dict[str, object]:
    """The last message, or the reason why there is none: the reader's comes first, if it has one."""
    failure = None if reader.cancelled() else reader.exception()
    if failure is not None:
        worker.exception()  # has been asked for
        raise failure
    try:
        return worker.result()
    except AbandonedError as error:
        raise WebSocketDisconnect from error


def _has_gone(reader: asyncio.Future[None]) -> bool:
    """Whether the client has: other faults of its own are answered after what could be recognised."""
    return reader.done() and not isinstance(reader.exception(), SenseVoiceError)


def _check_connected(message: Mapping[str, Any]) -> None:
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code") or NORMAL)


def _command(message: Mapping[str, Any]) -> dict[str, Any]:
    """A text message as JSON, {} for a binary one; OptionError unless it is an object with a type."""
    text = message.get("text")
    if text is None:
        return {}
    try:
        command = json.loads(text)
    except (ValueError, RecursionError):
        command = None
    if not isinstance(command, dict) or not isinstance(command.get("type"), str):
        raise OptionError('A text message must be a JSON object with a "type": "start" or "stop".')
    return command


def _blocks(inbox: Inbox, request: StreamRequest) -> Iterator[Samples]:
    """Float32 mono samples at 16 kHz, as they come; nothing if nothing was sent."""
    head = inbox.peek(MAGIC_BYTES)
    if not head:
        return iter(())
    is_file = head.startswith(MAGIC) or head[:3] == b"ID3" or head[4:] == b"ftyp"
    if request.encoding == "container" or (request.encoding == "auto" and is_file):
        return _file_blocks(inbox, head)
    chunks = iter(lambda: inbox.read(READ_BYTES) or b"", b"")
    return decode_pcm(chunks, request.rate, request.channels)


def _up_to(limit_s: float, blocks: Iterable[Samples]) -> Iterator[Samples]:
    """All that is allowed, whatever the blocks; then AudioTooLongError if there is more."""
    room = int(limit_s * SAMPLE_RATE)
    for block in blocks:
        if room:
            yield block[:room]
        if len(block) > room:
            raise AudioTooLongError("the recording", limit_s)
        room -= len(block)


def _file_blocks(inbox: Inbox, head: bytes) -> Iterator[Samples]:
    try:
        yield from decode_blocks(cast("BinaryIO", inbox), live=True)
    except EmptyAudioError as error:
        if head[4:] != b"ftyp":
            raise
        reason = "its index comes last, so it cannot be read while it is being sent"
        raise NotAudioError("the recording", reason) from error


def _draft_dict(draft: Segment) -> dict[str, object]:
    return {
        **{"text": draft.text, "start_s": draft.start_s, "end_s": draft.end_s},
        **{"language": draft.language, "emotion": draft.emotion, "event": draft.event},
    }
