"""Every error that SenseVoice Studio raises on purpose.

SenseVoiceError
 ├─ AudioError (ValueError)              something is wrong with one recording
 │   ├─ NoSuchAudioError (FileNotFoundError)
 │   ├─ EmptyAudioError                  no bytes, or no samples
 │   ├─ NotAudioError                    the bytes are no recording that can be read
 │   ├─ NoAudioStreamError               a container without a sound track
 │   ├─ TruncatedAudioError              the recording breaks off before its end
 │   └─ AudioTooLongError                longer than the limit
 ├─ OptionError (ValueError)             a request asks for something that does not exist
 │   ├─ UnknownLanguageError
 │   ├─ UnknownFormatError
 │   ├─ UnknownModelError (LookupError)
 │   └─ OptionConflictError              two options that cannot be had together
 ├─ JobError                             something is wrong with a job, or with where jobs are kept
 │   ├─ JobNotFoundError (LookupError)
 │   ├─ JobNotFinishedError              its result is asked for too early
 │   ├─ JobFileFailedError               its result is asked for, and it has none
 │   ├─ CrashingFileError                a recording that ends the program whenever it is tried
 │   ├─ IdempotencyError                 one Idempotency-Key for two different requests
 │   ├─ WebhookRefusedError (ValueError) an address that this server must not send to
 │   └─ JobStoreError (RuntimeError)     the database cannot be used
 ├─ ModelError (RuntimeError)            the model cannot be found, trusted or run
 │   ├─ ModelNotFoundError (FileNotFoundError)
 │   ├─ ModelFileError                   a file of the checkpoint is missing, damaged or of another shape
 │   ├─ ChecksumError                    a downloaded file is not the published one
 │   ├─ HubUnreachableError (ConnectionError)
 │   ├─ DeviceError                      the device that was asked for does not exist here
 │   ├─ PrecisionError                   the number format cannot be had on the device
 │   └─ SegmentTooLargeError (MemoryError)   one utterance alone does not fit into the device's memory
 ├─ DatasetError (ValueError)            training data that cannot be used, line by line
 └─ ServiceError (RuntimeError)          the HTTP service cannot take or finish a request
     ├─ UnauthorizedError (PermissionError)
     ├─ ForeignOriginError (PermissionError) another web site's script opens a live stream
     ├─ RateLimitError                   too many requests with one key
     ├─ UploadTooLargeError
     ├─ UploadTimeoutError (TimeoutError)    the client sends too slowly
     ├─ HeadTimeoutError (TimeoutError)      the client does not even say what it wants
     ├─ StorageFullError                 the spool folder's disk is full
     ├─ QueueFullError                   too many requests wait already
     ├─ ShuttingDownError
     ├─ DecodeTimeoutError (TimeoutError)
     ├─ RequestTimeoutError (TimeoutError)
     ├─ MemoryFullError (MemoryError)    of the GPU or of the machine
     ├─ WorkerDiedError                  the thread that did the work ended, twice
     ├─ TooManyStreamsError              as many live streams as allowed are open
     ├─ StreamIdleError (TimeoutError)   a live stream's client has fallen silent, or takes nothing
     └─ MessageTooLargeError             of a live stream

Each builds its own English sentence from the facts, and keeps the facts in `facts`, so that the
page can say the same in the reader's language (`strings.py`, key `error.<ClassName>`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class SenseVoiceError(Exception):
    """Base of all errors; `facts` holds the values that its sentence names."""

    def __init__(self, sentence: str, **facts: object) -> None:
        super().__init__(sentence)
        self.facts = facts

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, self.facts)


def _rebuild(
    kind: type[SenseVoiceError], args: tuple[object, ...], facts: dict[str, object]
) -> SenseVoiceError:
    """Make errors survive a process boundary, although each takes its own arguments."""
    error = kind.__new__(kind)
    error.args = args
    error.facts = facts
    return error


class AudioError(SenseVoiceError, ValueError):
    """Something is wrong with one recording; the others are not affected."""


class NoSuchAudioError(AudioError, FileNotFoundError):
    def __init__(self, name: str) -> None:
        super().__init__(f"There is no file {name!r}. Check the path and try again.", name=name)


class EmptyAudioError(AudioError):
    def __init__(self, name: str) -> None:
        super().__init__(f"{name} holds no sound. Record or export it again.", name=name)


class NotAudioError(AudioError):
    def __init__(self, name: str, reason: str = "") -> None:
        detail = f" ({reason})" if reason else ""
        super().__init__(
            f"{name} cannot be read as a recording{detail}. "
            "Use a sound or video file such as wav, mp3, m4a, flac, ogg, opus, webm or mp4.",
            name=name,
            reason=reason,
        )


class NoAudioStreamError(AudioError):
    def __init__(self, name: str) -> None:
        super().__init__(f"{name} has no sound track. Choose a file with sound.", name=name)


class TruncatedAudioError(AudioError):
    def __init__(self, name: str, decoded_s: float, declared_s: float) -> None:
        super().__init__(
            f"{name} breaks off after {decoded_s:.1f} s of {declared_s:.1f} s. "
            "The file was probably not copied whole: upload it again.",
            name=name,
            decoded_s=decoded_s,
            declared_s=declared_s,
        )


class AudioTooLongError(AudioError):
    def __init__(self, name: str, limit_s: float) -> None:
        super().__init__(
            f"{name} is longer than the limit of {limit_s:.0f} s. Cut it into shorter files, or raise the limit.",
            name=name,
            limit_s=limit_s,
        )


class OptionError(SenseVoiceError, ValueError):
    """A request asks for something that does not exist."""


class UnknownLanguageError(OptionError):
    def __init__(self, language: str, choices: Iterable[str]) -> None:
        names = ", ".join(choices)
        super().__init__(
            f"Unknown language {language!r}: choose one of {names}.", language=language, choices=names
        )


class UnknownFormatError(OptionError):
    def __init__(self, name: str, choices: Iterable[str]) -> None:
        names = ", ".join(choices)
        super().__init__(f"Unknown format {name!r}: choose one of {names}.", name=name, choices=names)


class UnknownModelError(OptionError, LookupError):
    def __init__(self, name: str, choices: Iterable[str]) -> None:
        names = ", ".join(choices)
        super().__init__(f"There is no model {name!r} here: choose one of {names}.", name=name, choices=names)


class OptionConflictError(OptionError):
    def __init__(self, option: str, needs: str) -> None:
        super().__init__(f"{option} can only be used with {needs}.", option=option, needs=needs)


class JobError(SenseVoiceError):
    """Something is wrong with a job, or with the place where jobs are kept."""


class JobNotFoundError(JobError, LookupError):
    def __init__(self, job: str) -> None:
        super().__init__(f"There is no job {job!r} here: it may have been deleted, or have expired.", job=job)


class JobNotFinishedError(JobError):
    def __init__(self, name: str, state: str) -> None:
        super().__init__(
            f"{name} is still {state}: ask for its result once it is done.", name=name, state=state
        )


class JobFileFailedError(JobError):
    def __init__(self, name: str, kind: str, reason: str) -> None:
        reason = reason.rstrip(".")
        super().__init__(f"{name} has no result ({kind}): {reason}.", name=name, kind=kind, reason=reason)


class CrashingFileError(JobError):
    def __init__(self, name: str, attempts: int) -> None:
        super().__init__(
            f"The program ended {attempts} times while it worked on {name}, so it is not tried again. "
            "Convert the recording to another format, and report this.",
            name=name,
            attempts=attempts,
        )


class IdempotencyError(JobError):
    def __init__(self, key: str) -> None:
        super().__init__(
            f"The Idempotency-Key {key!r} belongs to another request: "
            "use a new key for new files or options.",
            key=key,
        )


class WebhookRefusedError(JobError, ValueError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"This webhook cannot be used: {reason}.", reason=reason)


class JobStoreError(JobError, RuntimeError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"The database of jobs cannot be used: {reason}.", reason=reason)


class ModelError(SenseVoiceError, RuntimeError):
    """The model cannot be found, trusted or run."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    def __init__(self, model: str) -> None:
        super().__init__(
            f"There is no model at {model!r}: give a folder in SenseVoice's layout or a hub id "
            "such as iic/SenseVoiceSmall.",
            model=model,
        )


class ModelFileError(ModelError):
    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"The model file {path} cannot be used: {reason}.", path=path, reason=reason)


class ChecksumError(ModelError):
    def __init__(self, path: str, expected: str, found: str) -> None:
        super().__init__(
            f"{path} is not the published file: its SHA-256 is {found}, not {expected}. "
            "Delete it and download it again.",
            path=path,
            expected=expected,
            found=found,
        )


class HubUnreachableError(ModelError, ConnectionError):
    def __init__(self, hub: str, reason: str = "") -> None:
        detail = f" ({reason})" if reason else ""
        super().__init__(
            f"The model hub {hub} cannot be reached{detail}. Check the connection, or give a local model folder.",
            hub=hub,
            reason=reason,
        )


class DeviceError(ModelError):
    def __init__(self, device: str, available: Iterable[str]) -> None:
        names = ", ".join(available)
        super().__init__(
            f"There is no device {device!r} here: choose one of {names}.", device=device, available=names
        )


class PrecisionError(ModelError):
    def __init__(self, precision: str, device: str, choices: Iterable[str]) -> None:
        names = ", ".join(choices)
        super().__init__(
            f"The precision {precision!r} cannot be had on {device}: choose one of {names}.",
            precision=precision,
            device=device,
            choices=names,
        )


class SegmentTooLargeError(ModelError, MemoryError):
    def __init__(self, duration_s: float) -> None:
        super().__init__(
            f"A segment of {duration_s:.0f} s does not fit into the device's memory. "
            "Set a lower max_single_segment_time_ms, or free memory on the device.",
            duration_s=duration_s,
        )


class DatasetError(SenseVoiceError, ValueError):
    """Training data cannot be used; the sentence names the first lines at fault, the fact `problems` them all."""

    SHOWN = 10

    def __init__(self, path: str, problems: Sequence[str]) -> None:
        more = len(problems) - self.SHOWN
        reasons = "; ".join(problems[: self.SHOWN]) + (f"; and {more} more lines" if more > 0 else "")
        super().__init__(f"{path} cannot be used as training data: {reasons}.", path=path, reasons=reasons)
        self.facts["problems"] = tuple(problems)


class ServiceError(SenseVoiceError, RuntimeError):
    """The HTTP service cannot take or finish a request; the recording may be fine."""

    @property
    def retry_after_s(self) -> int | None:
        """Seconds after which the same request may succeed, None if it will not by itself."""
        seconds = self.facts.get("retry_s")
        return seconds if isinstance(seconds, int) else None


class UnauthorizedError(ServiceError, PermissionError):
    def __init__(self) -> None:
        super().__init__("This service needs a key: send the header `Authorization: Bearer <key>`.")


class ForeignOriginError(ServiceError, PermissionError):
    def __init__(self, origin: str) -> None:
        super().__init__(
            f"Pages of {origin} may not use this service. Whoever runs it can allow them "
            "with SENSEVOICE_CORS_ORIGINS.",
            origin=origin,
        )


class RateLimitError(ServiceError):
    def __init__(self, per_minute: int, retry_after_s: int) -> None:
        super().__init__(
            f"More than {per_minute} requests a minute with this key. Try again in {retry_after_s} s.",
            per_minute=per_minute,
            retry_s=retry_after_s,
        )


class UploadTooLargeError(ServiceError):
    def __init__(self, limit_mb: float) -> None:
        super().__init__(
            f"The upload is larger than the limit of {limit_mb:g} MB. Compress or split it, and try again.",
            limit_mb=f"{limit_mb:g}",
        )


class UploadTimeoutError(ServiceError, TimeoutError):
    def __init__(self, limit_s: float) -> None:
        super().__init__(
            f"The upload came too slowly: the limit is {limit_s:g} s. Check the connection, and try again.",
            limit_s=limit_s,
        )


class HeadTimeoutError(ServiceError, TimeoutError):
    def __init__(self, limit_s: float) -> None:
        super().__init__(
            f"The head of the request did not come within {limit_s:g} s. Check the connection, and try again.",
            limit_s=limit_s,
        )


class StorageFullError(ServiceError):
    def __init__(self) -> None:
        super().__init__(
            "The service has no room left to store the upload. Try again later, or tell whoever runs it.",
            retry_s=60,
        )


class QueueFullError(ServiceError):
    def __init__(self, length: int, retry_after_s: int) -> None:
        super().__init__(
            f"{length} requests are waiting already. Try again in {retry_after_s} s.",
            length=length,
            retry_s=retry_after_s,
        )


class ShuttingDownError(ServiceError):
    def __init__(self) -> None:
        super().__init__("The service is shutting down. Try again in a moment.", retry_s=10)


class DecodeTimeoutError(ServiceError, TimeoutError):
    def __init__(self, limit_s: float) -> None:
        super().__init__(
            f"The recording could not be decoded within {limit_s:g} s. "
            "Convert it to wav or flac, and try again.",
            limit_s=limit_s,
        )


class RequestTimeoutError(ServiceError, TimeoutError):
    def __init__(self, limit_s: float) -> None:
        super().__init__(
            f"The transcription was not finished within {limit_s:g} s. "
            "Send shorter recordings, or use /v1/jobs.",
            limit_s=limit_s,
        )


class MemoryFullError(ServiceError, MemoryError):
    def __init__(self) -> None:
        super().__init__(
            "The model ran out of memory. Try again later, or send shorter recordings.", retry_s=10
        )


class WorkerDiedError(ServiceError):
    def __init__(self) -> None:
        super().__init__("The transcription was interrupted inside the service. Try again.", retry_s=1)


class TooManyStreamsError(ServiceError):
    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} live streams are open already. Try again in a moment.", limit=limit, retry_s=10
        )


class StreamIdleError(ServiceError, TimeoutError):
    def __init__(self, limit_s: float) -> None:
        super().__init__(
            f"Nothing was sent or received for {limit_s:g} s, so the stream was closed. Connect again.",
            limit_s=limit_s,
        )


class MessageTooLargeError(ServiceError):
    def __init__(self, limit_kb: int) -> None:
        super().__init__(
            f"A message is larger than the limit of {limit_kb} KiB. Send the sound in smaller pieces.",
            limit_kb=limit_kb,
        )
