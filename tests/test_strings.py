from __future__ import annotations

import inspect
import string

import pytest

from sensevoice import errors
from sensevoice.strings import (
    LANGS,
    STRINGS,
    choose_lang,
    duration_text,
    error_text,
    text,
)

ERROR_CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.SenseVoiceError) and kind.__module__ == errors.__name__
]
EXAMPLES = [
    errors.NoSuchAudioError("a.wav"),
    errors.EmptyAudioError("a.wav"),
    errors.NotAudioError("a.txt", "no decoder"),
    errors.NoAudioStreamError("a.mp4"),
    errors.TruncatedAudioError("a.wav", 3.21, 60.0),
    errors.AudioTooLongError("a.wav", 12 * 3600.0),
    errors.UnknownLanguageError("xx", ("auto", "zh")),
    errors.UnknownFormatError("doc", ("txt", "srt")),
    errors.OptionError("emotion_threshold must lie between 0 and 1.", value=3),
    errors.JobNotFoundError("0192"),
    errors.JobNotFinishedError("a.wav", "running"),
    errors.JobFileFailedError("a.wav", "EmptyAudioError", "a.wav holds no sound"),
    errors.CrashingFileError("a.wav", 3),
    errors.IdempotencyError("order-7"),
    errors.WebhookRefusedError("10.0.0.1 is no public address"),
    errors.StorageFullError(),
    errors.TooManyStreamsError(16),
    errors.StreamIdleError(30.0),
    errors.MessageTooLargeError(512),
    errors.JobStoreError("it was made by a newer version"),
    errors.ModelNotFoundError("/nowhere"),
    errors.ModelFileError("model.pt", "it is damaged"),
    errors.ChecksumError("model.pt", "aa", "bb"),
    errors.HubUnreachableError("modelscope", "timed out"),
    errors.DeviceError("cuda:9", ("cpu",)),
    errors.PrecisionError("int8", "cuda:0", ("auto", "fp16")),
    errors.SegmentTooLargeError(30.0),
    errors.DatasetError("train.jsonl", ["line 3: target is missing"]),
    errors.UnknownModelError("gpt", ("starter",)),
    errors.OptionConflictError("stream", "response_format=json"),
    errors.UnauthorizedError(),
    errors.ForeignOriginError("https://a.example"),
    errors.RateLimitError(60, 3),
    errors.UploadTooLargeError(5),
    errors.UploadTimeoutError(30),
    errors.HeadTimeoutError(10),
    errors.StorageFullError(),
    errors.QueueFullError(256, 9),
    errors.ShuttingDownError(),
    errors.DecodeTimeoutError(600),
    errors.RequestTimeoutError(3600),
    errors.MemoryFullError(),
    errors.WorkerDiedError(),
]


def placeholders(template: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}


@pytest.mark.parametrize("key", STRINGS)
def test_every_string_exists_in_both_languages_with_the_same_placeholders(key: str) -> None:
    row = STRINGS[key]
    assert set(row) == set(LANGS)
    assert all(row[lang].strip() for lang in LANGS)
    assert placeholders(row["zh"]) == placeholders(row["en"])


def test_chinese_and_english_are_never_the_same_sentence() -> None:
    same = [key for key, row in STRINGS.items() if row["zh"] == row["en"]]
    assert same == ["timeline.probability"]


@pytest.mark.parametrize("kind", ERROR_CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_class_has_a_row(kind: type[errors.SenseVoiceError]) -> None:
    assert f"error.{kind.__name__}" in STRINGS


def test_every_error_class_with_facts_of_its_own_has_an_example_here() -> None:
    leaves = {kind for kind in ERROR_CLASSES if "__init__" in vars(kind)} - {errors.SenseVoiceError}
    assert leaves <= {type(error) for error in EXAMPLES}


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_becomes_a_whole_sentence_with_its_facts(error: errors.SenseVoiceError, lang: str) -> None:
    sentence = error_text(error, lang)
    assert sentence.endswith("。" if lang == "zh" else ".")
    assert "{" not in sentence
    assert placeholders(STRINGS[f"error.{type(error).__name__}"]["en"]) <= set(error.facts)


def test_times_in_errors_are_told_in_words() -> None:
    error = errors.TruncatedAudioError("a.wav", 3.21, 3700)
    assert error_text(error, "zh").startswith("“a.wav”不完整：应有 1 小时 01 分，只读到 3.2 秒。")
    assert error_text(error, "en").startswith("a.wav breaks off after 3.2 s of 1 h 01 min.")


def test_an_unnamed_recording_is_named_in_the_readers_language() -> None:
    error = errors.EmptyAudioError("the recording")
    assert error_text(error, "zh") == "“这段录音”里没有声音。请重新录制或导出。"
    assert error_text(error, "en") == "The recording holds no sound. Record or export it again."


@pytest.mark.parametrize("lang", LANGS)
def test_an_unexpected_error_gives_nothing_away(lang: str) -> None:
    sentence = error_text(RuntimeError("/secret/path exploded"), lang)
    assert sentence == text("error.unexpected", lang)
    assert "secret" not in sentence


def test_a_subclass_without_a_row_is_told_as_its_parent() -> None:
    class OddAudioError(errors.AudioError):
        pass

    assert error_text(OddAudioError("odd"), "en") == text("error.AudioError", "en")


@pytest.mark.parametrize(
    ("seconds", "zh", "en"),
    [
        (0.04, "0.0 秒", "0.0 s"),
        (8.44, "8.4 秒", "8.4 s"),
        (59.94, "59.9 秒", "59.9 s"),
        (59.96, "1 分 00 秒", "1 min 00 s"),
        (185.4, "3 分 05 秒", "3 min 05 s"),
        (3599.7, "1 小时 00 分", "1 h 00 min"),
        (43_200, "12 小时 00 分", "12 h 00 min"),
    ],
)
def test_a_length_of_time_is_rounded_once(seconds: float, zh: str, en: str) -> None:
    assert (duration_text(seconds, "zh"), duration_text(seconds, "en")) == (zh, en)


@pytest.mark.parametrize(
    ("header", "lang"),
    [
        (None, "zh"),
        ("", "zh"),
        ("*", "zh"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-US,en;q=0.9", "en"),
        ("en-GB;q=0.7, zh-TW;q=0.9", "zh"),
        ("fr-FR,fr;q=0.9,en-US;q=0.8,en;q=0.7", "en"),
        ("fr-FR,ko", "zh"),
        ("zh;q=0, en;q=0.1", "en"),
        ("en;q=nonsense, EN-us", "en"),
        (";;,,q=1", "zh"),
    ],
)
def test_the_page_speaks_the_first_of_its_languages_that_the_browser_wants(
    header: str | None, lang: str
) -> None:
    assert choose_lang(header) == lang
