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
 │   └─ UnknownFormatError
 └─ ModelError (RuntimeError)            the model cannot be found, trusted or run
     ├─ ModelNotFoundError (FileNotFoundError)
     ├─ ModelFileError                   a file of the checkpoint is missing, damaged or of another shape
     ├─ ChecksumError                    a downloaded file is not the published one
     ├─ HubUnreachableError (ConnectionError)
     ├─ DeviceError                      the device that was asked for does not exist here
     ├─ PrecisionError                   the number format cannot be had on the device
     └─ OutOfMemoryError (MemoryError)   one utterance alone does not fit into the device's memory

Each builds its own English sentence from the facts, and keeps the facts in `facts`, so that the
page can say the same in the reader's language (`strings.py`, key `error.<ClassName>`).
"""

from __future__ import annotations

from collections.abc import Iterable


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


class OutOfMemoryError(ModelError, MemoryError):
    def __init__(self, duration_s: float) -> None:
        super().__init__(
            f"A segment of {duration_s:.0f} s does not fit into the device's memory. "
            "Set a lower max_single_segment_time_ms, or free memory on the device.",
            duration_s=duration_s,
        )
