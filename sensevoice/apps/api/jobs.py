"""`/v1/jobs`: recordings that are transcribed when there is time, and whose results wait to be fetched.

    curl -F file=@monday.mp3 -F file=@tuesday.mp3 -H "Idempotency-Key: week-7" http://127.0.0.1:6006/v1/jobs

A job belongs to the key that posted it. DELETE stops it and removes all that belongs to it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, FastAPI, File, Form, Header, Query, Request, Response, UploadFile
from pydantic import BaseModel, Field

from sensevoice.apps.api.access import given_key
from sensevoice.apps.api.models import (
    TEXT_FORMATS,
    OpenAIErrorReply,
    TranscriptReply,
    example_of,
    responses,
)
from sensevoice.apps.api.service import CurrentService, Service
from sensevoice.apps.api.uploads import UploadRoute, upload_path
from sensevoice.errors import OptionError, SenseVoiceError, UnknownFormatError, WebhookRefusedError
from sensevoice.exporters import EXPORTERS
from sensevoice.job_worker import JobWorker
from sensevoice.jobs import (
    DATABASE_NAME,
    Delivery,
    DeliveryState,
    Fault,
    Job,
    JobFile,
    JobStore,
    NewJob,
    State,
    Upload,
    Webhook,
)
from sensevoice.options import LANGUAGES, TranscribeOptions
from sensevoice.webhooks import Deliverer, Sender, check_webhook

if TYPE_CHECKING:
    from sensevoice.settings import Settings
    from sensevoice.transcript import Transcript

log = logging.getLogger(__name__)
T = TypeVar("T")

STOP_GRACE_S = 5.0  # a job that is broken off is put back, so that it need not use up the grace time
THREADS = 8  # that wait for the disk at once; not those of the other endpoints
LONGEST_NAME = 255
REPLAYED = "Idempotent-Replayed"


# Replies ------------------------------------------------------------------------------------------


class FaultReply(BaseModel):
    """Why a file has no result."""

    type: str = Field(examples=["NotAudioError"])
    message: str


class FileReply(BaseModel):
    """One recording of a job."""

    index: int
    name: str = Field(description="As the client calls it.", examples=["monday.mp3"])
    size_bytes: int
    state: State
    progress: float = Field(ge=0, le=1)
    done_s: float = Field(description="Seconds of sound that are done.")
    total_s: float | None = Field(description="Seconds of sound, once they are known.")
    attempts: int = Field(description="Above 1 if the service ended while it worked on it.")
    error: FaultReply | None


class WebhookReply(BaseModel):
    """How far the notice of a job's end is."""

    url: str
    transcript: bool
    state: DeliveryState
    attempts: int
    error: str | None


class JobOptions(BaseModel):
    """What was asked of the recordings."""

    language: str
    allowed_languages: list[str]
    use_itn: bool
    use_vad: bool
    ban_emo_unk: bool
    emotion_threshold: float


JOB: dict[str, Any] = {
    **{"id": "019b76f3a1c04f6d2c1be0a97e55d8c1", "state": "done", "progress": 1.0},
    **{"created_at": 1767225600.0, "started_at": 1767225601.0, "finished_at": 1767225609.0},
    **{"expires_at": 1767830409.0},
    "options": {
        **{"language": "auto", "allowed_languages": ["zh", "en"], "use_itn": True, "use_vad": True},
        **{"ban_emo_unk": False, "emotion_threshold": 0.5},
    },
    "files": [
        {
            **{"index": 0, "name": "monday.mp3", "size_bytes": 3456789, "state": "done", "progress": 1.0},
            **{"done_s": 215.4, "total_s": 215.4, "attempts": 1, "error": None},
        }
    ],
    "webhook": {
        **{"url": "https://example.com/done", "transcript": False, "state": "delivered"},
        **{"attempts": 1, "error": None},
    },
}


class JobReply(BaseModel):
    """A job as it stands; times in seconds since 1970."""

    model_config = example_of(**JOB)

    id: str
    state: State = Field(description="done: at least one file has a result; failed: none has.")
    progress: float = Field(ge=0, le=1)
    created_at: float
    started_at: float | None
    finished_at: float | None
    expires_at: float | None = Field(description="When the transcripts are removed.")
    options: JobOptions
    files: list[FileReply]
    webhook: WebhookReply | None


class JobPage(BaseModel):
    """Jobs, the youngest first."""

    model_config = example_of(jobs=[JOB], next=None)

    jobs: list[JobReply]
    next: str | None = Field(description="What to give as `after` for the next page; null on the last one.")


def job_reply(job: Job) -> JobReply:
    """A job as clients see it."""
    names = JobOptions.model_fields
    return JobReply(
        id=job.id,
        state=job.state,
        progress=round(job.progress, 4),
        created_at=job.created_s,
        started_at=job.started_s,
        finished_at=job.finished_s,
        expires_at=job.expires_s,
        options=JobOptions(**{name: getattr(job.options, name) for name in names}),
        files=[_file_reply(index, file) for index, file in enumerate(job.files)],
        webhook=_webhook_reply(job.delivery) if job.delivery else None,
    )


def _file_reply(index: int, file: JobFile) -> FileReply:
    return FileReply(
        index=index,
        name=file.name,
        size_bytes=file.size_bytes,
        state=file.state,
        progress=round(file.progress, 4),
        done_s=file.done_s,
        total_s=file.total_s or None,
        attempts=file.attempts,
        error=FaultReply(type=file.fault.kind, message=file.fault.sentence) if file.fault else None,
    )


def _webhook_reply(delivery: Delivery) -> WebhookReply:
    return WebhookReply(
        url=delivery.webhook.url,
        transcript=delivery.webhook.with_transcript,
        state=delivery.state,
        attempts=delivery.attempts,
        error=delivery.error,
    )


# The store and its threads ------------------------------------------------------------------------


class JobDesk:
    """The jobs of one application: opened when first needed, or at the start if there are any."""

    def __init__(self, service: Service) -> None:
        self.settings = service.settings
        self.directory = service.settings.job_dir.expanduser()
        self._transcriber = service.transcriber
        self._opening = threading.Lock()
        self._store: JobStore | None = None
        self._worker: JobWorker | None = None
        self._limiter = CapacityLimiter(THREADS)
        self._metrics = service.metrics
        self._metrics.watch("jobs_waiting", "Recordings of jobs that wait for their turn", self._waiting)

    async def run(self, action: Callable[[JobStore], T]) -> T:
        """`action` in a thread, since it waits for the disk."""
        return await to_thread.run_sync(lambda: action(self.open()), limiter=self._limiter)

    def open(self) -> JobStore:
        """The store, with its worker at work."""
        with self._opening:
            if self._store is None:
                limits = {"ttl_s": self.settings.job_ttl_s, "max_queued": self.settings.job_max_queued}
                self._store = JobStore(self.directory, **limits)  # type: ignore[arg-type]
                self._worker = self._start(self._store)
            return self._store

    def _start(self, store: JobStore) -> JobWorker:
        settings = self.settings
        worker = JobWorker(
            store,
            self._transcriber,
            threads=settings.job_threads,
            decode_timeout_s=settings.decode_timeout_s,
            companions=[_deliverer(store, settings).run] if settings.webhook_secret else [],
            observe=self._observe,
        )
        worker.start()
        return worker

    def wake(self) -> None:
        """There is a new job."""
        if self._worker:
            self._worker.wake()

    def resume(self) -> None:
        """Go on with the jobs of an earlier process; without any, nothing is made on the disk."""
        if (self.directory / DATABASE_NAME).exists():
            try:
                self.open()
            except (SenseVoiceError, OSError) as error:  # the other endpoints can do without
                log.error("The jobs cannot be resumed: %s", error)

    def close(self) -> None:
        """Put back what runs, and close the store."""
        with self._opening:
            if self._worker:
                self._worker.stop(min(STOP_GRACE_S, self.settings.grace_s))
            if self._store:
                self._store.close()
            self._store = self._worker = None

    def _observe(self, outcome: Transcript | Fault) -> None:
        if isinstance(outcome, Fault):
            self._metrics.errors.labels(outcome.kind).inc()
        else:
            self._metrics.audio_seconds.inc(outcome.duration_s)

    def _waiting(self) -> float:
        return self._worker.waiting if self._worker else 0


def _deliverer(store: JobStore, settings: Settings) -> Deliverer:
    assert settings.webhook_secret is not None
    secret = settings.webhook_secret.get_secret_value()
    sender = Sender(secret, settings.webhook_allow_private, settings.webhook_timeout_s)
    return Deliverer(store, sender, settings.webhook_attempts, settings.webhook_backoff_s)


def _desk_of(app: FastAPI) -> JobDesk:
    """The application's own; made on the event loop, hence only once."""
    if not hasattr(app.state, "jobs"):
        app.state.jobs = JobDesk(app.state.service)
    desk: JobDesk = app.state.jobs
    return desk


async def _current_desk(request: Request) -> JobDesk:
    return _desk_of(request.app)


async def _caller(request: Request, service: CurrentService) -> str:
    """Whose jobs are meant: a digest of the key, so that the database holds none."""
    if not service.settings.api_keys:
        return ""
    return hashlib.sha256(given_key(request.scope).encode()).hexdigest()


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    desk = _desk_of(app)
    await asyncio.to_thread(desk.resume)
    yield
    await asyncio.to_thread(desk.close)


CurrentDesk = Annotated[JobDesk, Depends(_current_desk)]
Caller = Annotated[str, Depends(_caller)]

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=UploadRoute, lifespan=_lifespan)


def _failures(*statuses: int) -> dict[int | str, dict[str, object]]:
    return responses(400, 401, 422, 500, 503, *statuses, model=OpenAIErrorReply)


# What is posted -----------------------------------------------------------------------------------


async def _options(
    service: CurrentService,
    language: Annotated[
        str | None,
        Form(
            description="What is spoken. Unset: as the service is configured.",
            json_schema_extra={"enum": [*LANGUAGES]},
        ),
    ] = None,
    allowed_languages: Annotated[
        list[str],
        Form(description="What may be heard when the language is auto; repeat it. None: all five."),
    ] = [],  # noqa: B006  FastAPI copies it
    use_itn: Annotated[bool, Form(description="Punctuation, and numbers as digits.")] = True,
    use_vad: Annotated[bool, Form(description="Skip what is not speech.")] = True,
    ban_emo_unk: Annotated[bool, Form(description="Always name an emotion.")] = False,
    emotion_threshold: Annotated[
        float, Form(ge=0, le=1, description="An emotion less probable than this is uncertain.")
    ] = 0.5,
) -> TranscribeOptions:
    return TranscribeOptions(
        language=language or service.settings.language,
        allowed_languages=tuple(allowed_languages),
        use_itn=use_itn,
        use_vad=use_vad,
        ban_emo_unk=ban_emo_unk,
        emotion_threshold=emotion_threshold,
        max_duration_s=service.settings.max_duration_s,
    )


async def _webhook(
    service: CurrentService,
    webhook: Annotated[
        str | None, Form(description="An address to POST to once the job is finished; see `webhooks.py`.")
    ] = None,
    webhook_transcript: Annotated[
        bool, Form(description="Send the transcripts to it too; only over https.")
    ] = False,
) -> Webhook | None:
    if webhook is None:
        return None
    if service.settings.webhook_secret is None:
        raise WebhookRefusedError("this service has no SENSEVOICE_WEBHOOK_SECRET to sign it with")
    wanted = Webhook(webhook, webhook_transcript)
    check_webhook(wanted, allow_private=service.settings.webhook_allow_private)
    return wanted


@router.post("", status_code=202, responses=_failures(404, 408, 413, 429, 507))
async def post_job(
    request: Request,
    reply: Response,
    service: CurrentService,
    desk: CurrentDesk,
    caller: Caller,
    file: Annotated[list[UploadFile], File(description="A sound or video file; repeat it for more.")],
    options: Annotated[TranscribeOptions, Depends(_options)],
    webhook: Annotated[Webhook | None, Depends(_webhook)],
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            description="The same request with the same key gives the same job, however often it comes.",
        ),
    ] = None,
) -> JobReply:
    """Take in one or many recordings and answer at once with the job's id."""
    if len(file) > service.settings.job_max_files:
        raise OptionError(f"A job takes at most {service.settings.job_max_files} files.", files=len(file))
    uploads = [(upload_path(one), _shown_name(one.filename)) for one in file]
    new = NewJob((), options, webhook, caller, idempotency_key)
    job, repeated = await desk.run(lambda store: _take_in(store, uploads, new))
    desk.wake()
    reply.headers["Location"] = f"{request.scope.get('root_path', '')}/v1/jobs/{job.id}"
    if repeated:
        reply.headers[REPLAYED] = "true"
    return job_reply(job)


def _take_in(store: JobStore, uploads: Sequence[tuple[Path, str]], new: NewJob) -> tuple[Job, bool]:
    """Store recordings and job, in one thread from end to end: a client that leaves cannot split them."""
    received: list[Upload] = []
    try:
        for path, name in uploads:
            received.append(store.receive(path, name))
    except BaseException:
        store.discard(received)
        raise
    return store.add(NewJob(tuple(received), new.options, new.webhook, new.owner, new.idempotency_key))


def _shown_name(name: str | None) -> str:
    """The client's name for a recording, only ever shown: without folders and control characters."""
    last = (name or "").replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(filter(str.isprintable, last)).strip()[:LONGEST_NAME] or "recording"


# What is asked ------------------------------------------------------------------------------------


@router.get("", responses=_failures())
async def list_jobs(
    desk: CurrentDesk,
    caller: Caller,
    state: State | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str, Query(max_length=64, description="The `next` of the page before.")] = "",
) -> JobPage:
    """The caller's jobs, the youngest first."""
    jobs = await desk.run(lambda store: store.page(caller, state=state, limit=limit + 1, before=after))
    following = jobs[limit - 1].id if len(jobs) > limit else None
    return JobPage(jobs=[job_reply(job) for job in jobs[:limit]], next=following)


@router.get("/{job_id}", responses=_failures(404))
async def get_job(desk: CurrentDesk, caller: Caller, job_id: str) -> JobReply:
    """How far a job is."""
    return job_reply(await desk.run(lambda store: store.get(job_id, caller)))


@router.get(
    "/{job_id}/result",
    response_model=TranscriptReply,
    responses={200: {"content": TEXT_FORMATS}, **_failures(404, 409)},
)
async def get_result(
    desk: CurrentDesk,
    caller: Caller,
    job_id: str,
    format: Annotated[str, Query(json_schema_extra={"enum": [*EXPORTERS]})] = "json",
    file: Annotated[int, Query(ge=0, description="Which of the job's files, counting from 0.")] = 0,
    lang: Annotated[Literal["zh", "en"], Query(description="The language of the tags' names.")] = "en",
) -> Response:
    """The transcript of one file, as soon as this file is done."""
    if format not in EXPORTERS:
        raise UnknownFormatError(format, EXPORTERS)
    exporter = EXPORTERS[format]

    def render(store: JobStore) -> tuple[str, str]:
        found, transcript = store.result(job_id, file, caller)
        return found.name, exporter.render(transcript, lang)

    name, content = await desk.run(render)
    attachment = f"attachment; filename*=UTF-8''{quote(Path(name).stem + exporter.suffix, safe='')}"
    headers = {"Content-Disposition": attachment, "X-Content-Type-Options": "nosniff"}
    return Response(content, media_type=exporter.media_type, headers=headers)


@router.delete("/{job_id}", status_code=204, responses=_failures(404))
async def delete_job(desk: CurrentDesk, caller: Caller, job_id: str) -> None:
    """Stop a job and remove its recordings, its transcripts and its webhook."""
    await desk.run(lambda store: store.delete(job_id, caller))
