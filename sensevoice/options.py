"""What a caller may ask of one transcription; handed on unchanged and returned in the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sensevoice.errors import OptionError, UnknownLanguageError

Precision = Literal["auto", "fp32", "fp16", "bf16", "int8"]
LANGUAGES = ("auto", "zh", "en", "yue", "ja", "ko")
SPOKEN_LANGUAGES = LANGUAGES[1:]
SHORTEST_LIMIT_MS = 200  # a segment must be able to hold a word


@dataclass(frozen=True)
class VadOptions:
    """FSMN-VAD's decision options, under their FunASR names with the unit added.

    Defaults are those of the official `config.yaml`, except that a segment ends after 30 s
    (FunASR: 60 s), which is what SenseVoiceSmall was trained on.
    """

    # where a segment begins and ends
    max_single_segment_time_ms: int = 30_000
    max_start_silence_time_ms: int = 3_000
    max_end_silence_time_ms: int | None = 800  # None: FunASR's adaptive patience, 2 s down to 0.1 s
    sil_to_speech_time_thres_ms: int = 150
    speech_to_sil_time_thres_ms: int = 150
    window_size_ms: int = 200
    lookback_time_start_point_ms: int = 200
    lookahead_time_end_point_ms: int = 100
    # what counts as speech
    speech_noise_thres: float = 0.6
    speech_2_noise_ratio: float = 1.0
    decibel_thres: float = -100.0
    snr_thres: float = -100.0
    fe_prior_thres: float = 1e-4
    # joining short segments afterwards; 0 leaves them alone
    merge_up_to_ms: int = 0
    merge_gap_ms: int = 500

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_ms") and value is not None and value < 0:
                raise OptionError(f"{name} must not be negative.", name=name, value=value)
        if self.max_single_segment_time_ms < SHORTEST_LIMIT_MS:
            raise OptionError(
                f"max_single_segment_time_ms must be at least {SHORTEST_LIMIT_MS}.",
                name="max_single_segment_time_ms",
                value=self.max_single_segment_time_ms,
            )


@dataclass(frozen=True)
class TranscribeOptions:
    """One request."""

    # what is spoken
    language: str = "auto"
    allowed_languages: tuple[str, ...] = ()  # empty: all five; only read when language is "auto"
    use_itn: bool = True  # punctuation, and numbers as digits
    # how the recording is cut
    use_vad: bool = True
    vad: VadOptions = field(default_factory=VadOptions)
    # what is said of feeling and sound
    ban_emo_unk: bool = False
    emotion_threshold: float = 0.5  # an emotion less probable than this is "uncertain"
    show_neutral: bool = False
    show_speech: bool = False
    # what is refused
    max_duration_s: float = 12 * 3600.0

    def __post_init__(self) -> None:
        for language in (self.language, *self.allowed_languages):
            if language not in LANGUAGES:
                raise UnknownLanguageError(language, LANGUAGES)
        if not 0 <= self.emotion_threshold <= 1:
            raise OptionError("emotion_threshold must lie between 0 and 1.", value=self.emotion_threshold)
