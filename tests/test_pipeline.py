"""The pipeline as a stream: the same segments as of the whole recording, early, in bounded memory, without remains."""

from __future__ import annotations

import gc
import io
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import clips
import numpy as np
import numpy.typing as npt
import pytest
import torch
from checkpoints import speech_like
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensevoice import audio, pipeline
from sensevoice.audio import SAMPLE_RATE
from sensevoice.engine import TorchEngine
from sensevoice.errors import AudioTooLongError, EmptyAudioError, NotAudioError, TruncatedAudioError
from sensevoice.options import TranscribeOptions, VadOptions
from sensevoice.pipeline import Progress, Transcriber
from sensevoice.spans import Span
from sensevoice.transcript import Segment
from sensevoice.vad import VoiceActivityDetector, gaps_between

Samples = npt.NDArray[np.float32]

PATIENCE_S = 20
RECORDING = np.concatenate([speech_like(75, pauses=True, seed=1), np.zeros(70 * SAMPLE_RATE, np.float32)])
RECORDING = np.concatenate([RECORDING, speech_like(70.02, pauses=True, seed=2)])  # 3 min 35 s


@pytest.fixture(scope="module")
def small(small_engine: TorchEngine, small_vad: Path) -> Transcriber:
    return Transcriber(small_engine, VoiceActivityDetector.load(small_vad))


@pytest.fixture(scope="module")
def deaf(small: Transcriber) -> Transcriber:
    """Finds speech as ever, and understands nothing, quickly."""
    return replace(small, engine=Deaf(small.engine))


class Deaf:
    """An engine that answers everything as it did the first utterance; it counts what it was given."""

    def __init__(self, engine: Any) -> None:
        self.vocabulary, self.tags = engine.vocabulary, engine.tags
        self.info, self.device = engine.info, engine.device
        self.heard: list[Samples] = []
        self._answer = engine.recognise([RECORDING[: 2 * SAMPLE_RATE]])[0]

    def recognise(self, utterances: Sequence[Samples], query: object = None) -> list[Any]:
        self.heard += [np.array(utterance) for utterance in utterances]
        return [self._answer] * len(utterances)


class Failing(Deaf):
    def recognise(self, utterances: Sequence[Samples], query: object = None) -> list[Any]:
        raise ArithmeticError("the network")


def wav(samples: Samples) -> bytes:
    return clips.pcm_wav((samples * 32_767).astype(np.int16))


def spans_of(segments: Sequence[Segment]) -> list[Span]:
    return [Span(round(one.start_s * 1000), round(one.end_s * 1000)) for one in segments]


def stages() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("sensevoice-")]


# --- the same result ------------------------------------------------------------------------------------

vad_options = st.builds(
    VadOptions,
    max_single_segment_time_ms=st.sampled_from([900, 30_000, 150_000]),
    max_end_silence_time_ms=st.sampled_from([None, None, 0, 800, 3_000]),
    lookback_time_start_point_ms=st.sampled_from([0, 200, 1_000]),
    decibel_thres=st.sampled_from([-100.0, -20.0]),
    snr_thres=st.sampled_from([-100.0, 10.0]),
    merge_up_to_ms=st.sampled_from([0, 6_000, 200_000]),
    merge_gap_ms=st.sampled_from([0, 500, 90_000]),
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(options=vad_options, length=st.integers(0, len(RECORDING)), minute=st.sampled_from([7, 60]))
def test_segments_are_those_that_the_vad_finds_in_the_whole_recording(
    deaf: Transcriber, monkeypatch: pytest.MonkeyPatch, options: VadOptions, length: int, minute: int
) -> None:
    for module in (audio, pipeline):
        monkeypatch.setattr(module, "MINUTE_SAMPLES", minute * SAMPLE_RATE)
    recording = RECORDING[: max(1, length)]
    expected = deaf.vad.speech_spans(recording, options)
    engine = Deaf(deaf.engine)
    transcript = replace(deaf, engine=engine).transcribe(recording, TranscribeOptions(vad=options))
    assert spans_of(transcript.segments) == expected
    gaps = gaps_between(expected, round(len(recording) / 16))
    assert [(gap.start_s, gap.end_s) for gap in transcript.skipped] == [
        (gap.start_ms / 1000, gap.end_ms / 1000) for gap in gaps
    ]
    assert transcript.duration_s == round(len(recording) / 16) / 1000
    heard = sorted(utterance.tobytes() for utterance in engine.heard)
    assert heard == sorted(recording[span.start_ms * 16 : span.end_ms * 16].tobytes() for span in expected)


def test_on_a_gpu_stretches_grow_and_the_segments_stay(deaf: Transcriber) -> None:
    """A GPU is told by its name: the work is done here."""
    recording = np.tile(RECORDING, 4)  # 14 min 20 s
    engine = Deaf(deaf.engine)
    engine.device = "cuda:0"
    gpu = replace(deaf, engine=engine)
    seen = reports(gpu, recording)
    assert [one.done_s / 60 for one in seen[:-1]] == pytest.approx([0, 1, 3, 7, 11, len(recording) / 960_000])
    assert seen[-1].segments == deaf.transcribe(recording).segments


@pytest.mark.parametrize("samples", [1, 16_000, 16_001, 60 * 16_000, 130 * 16_000 + 7])
def test_without_vad_nothing_is_left_out(deaf: Transcriber, samples: int) -> None:
    engine = Deaf(deaf.engine)
    options = TranscribeOptions(use_vad=False)
    transcript = replace(deaf, engine=engine).transcribe(RECORDING[:samples], options)
    assert sum(map(len, engine.heard)) == samples
    assert transcript.segments[-1].end_s == -(-samples // 16) / 1000
    assert transcript.skipped == ()


def test_the_stream_yields_the_segments_of_the_transcript(small: Transcriber) -> None:
    transcript = small.transcribe(wav(RECORDING))
    assert list(small.transcribe_stream(wav(RECORDING))) == list(transcript.segments)
    assert len(transcript.segments) > 30
    assert [segment.start_s for segment in transcript.segments] == sorted(
        s.start_s for s in transcript.segments
    )


def test_recordings_that_are_transcribed_at_once_do_not_disturb_one_another(small: Transcriber) -> None:
    parts = [RECORDING[start * SAMPLE_RATE :][: 62 * SAMPLE_RATE] for start in (30, 55, 80, 105)]
    alone = [small.transcribe(part).segments for part in parts]
    together: dict[int, tuple[Segment, ...]] = {}

    def work(index: int) -> None:
        together[index] = small.transcribe(parts[index]).segments

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[index] for index in range(len(parts))] == alone


# --- early ----------------------------------------------------------------------------------------------


class Tap(io.RawIOBase):
    """A wav that cannot be read beyond `open_bytes` before `more` is set."""

    def __init__(self, data: bytes, open_bytes: int) -> None:
        self._data, self._open = io.BytesIO(data), open_bytes
        self.more, self.reached = threading.Event(), threading.Event()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._data.seek(offset, whence)

    def tell(self) -> int:
        return self._data.tell()

    def read(self, size: int = -1) -> bytes:
        if self._data.tell() >= self._open:
            self.reached.set()
            if not self.more.wait(PATIENCE_S):
                raise TimeoutError
        return self._data.read(size)


def test_text_is_there_while_later_minutes_are_still_being_decoded(small: Transcriber) -> None:
    tap = Tap(wav(RECORDING), open_bytes=2 * 62 * SAMPLE_RATE)
    segments = small.transcribe_stream(tap)
    first = next(segments)
    assert not tap.more.is_set()
    tap.more.set()
    assert [first, *segments] == list(small.transcribe(wav(RECORDING)).segments)


def test_no_more_is_decoded_than_is_worked_on(deaf: Transcriber) -> None:
    data = wav(np.tile(RECORDING, 5))  # 18 minutes
    tap = Tap(data, open_bytes=len(data))
    tap.more.set()
    segments = deaf.transcribe_stream(tap)
    next(segments)
    threading.Event().wait(0.3)
    read_s = tap.tell() / 2 / SAMPLE_RATE
    # one being waited for, two results in store, one without room, two minutes decoded, one without room
    assert read_s < 9 * 62
    assert len(list(segments)) > 100


# --- progress -------------------------------------------------------------------------------------------


def reports(transcriber: Transcriber, source: Any) -> list[Progress]:
    seen: list[Progress] = []
    transcriber.transcribe(source, on_progress=seen.append)
    return seen


@pytest.mark.parametrize(
    "name", ["wav 16 bit", "flac", "mp3 variable", "mp3 variable without header", "m4a", "ogg opus"]
)
def test_progress_runs_to_the_length_that_the_file_states(deaf: Transcriber, name: str) -> None:
    form = clips.FORMATS[name]
    sound = np.zeros(130 * form.rate, np.int16)
    seen = reports(deaf, clips.encode(sound, form.rate, name))
    assert [one.stage for one in seen] == ["recognise"] * 4 + ["done"]
    assert [one.done_s for one in seen] == pytest.approx([0, 60.5, 121.3, 130, 130], abs=0.6)
    assert [one.total_s for one in seen[1:3]] == pytest.approx([130, 130], rel=0.1)
    assert seen[-1].done_s == seen[-1].total_s == seen[-2].done_s
    assert seen[-1].total_s == pytest.approx(130, abs=0.2)


def test_segments_grow_from_report_to_report(small: Transcriber) -> None:
    seen = reports(small, RECORDING)
    assert [one.total_s for one in seen] == [0.0] + [len(RECORDING) / SAMPLE_RATE] * 5
    for before, after in itertools.pairwise(seen):
        assert after.segments[: len(before.segments)] == before.segments
        assert after.done_s >= before.done_s
    assert len(seen[1].segments) > 10
    assert seen[-1].segments == small.transcribe(RECORDING).segments


def test_a_recording_that_does_not_say_how_long_it_is_has_no_total_before_its_end(deaf: Transcriber) -> None:
    class Pipe(io.RawIOBase):
        data = io.BytesIO(clips.encode(clips.speechlike(70, 48_000), 48_000, "webm of a browser"))

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            return self.data.read(size)

    seen = reports(deaf, Pipe())
    assert [one.total_s for one in seen[:-1]] == [0.0] * 3
    assert seen[-1].total_s == pytest.approx(70, abs=0.1)


def test_a_device_that_cannot_be_prepared_is_not_the_models_fault(
    small: Transcriber, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(place: torch.device) -> None:
        places.append(place)
        raise RuntimeError("no room")

    places: list[torch.device] = []
    monkeypatch.setattr(pipeline, "prepare", fail)
    loaded = Transcriber.load(os.fspath(small_checkpoint), device="cpu")
    assert places == [torch.device("cpu")]
    clip = RECORDING[: 5 * SAMPLE_RATE]
    options = TranscribeOptions(use_vad=False)
    assert loaded.transcribe(clip, options).segments == small.transcribe(clip, options).segments


# --- ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "is_alone"), [(59, True), (61, False)])
def test_only_what_is_longer_than_a_minute_is_worth_threads(
    deaf: Transcriber, seconds: int, is_alone: bool
) -> None:
    class Watching(Deaf):
        def recognise(self, utterances: Sequence[Samples], query: object = None) -> list[Any]:
            heard_in.append(threading.current_thread())
            return super().recognise(utterances, query)

    heard_in: list[threading.Thread] = []
    watched = replace(deaf, engine=Watching(deaf.engine))
    watched.transcribe(RECORDING[: seconds * SAMPLE_RATE])
    assert [thread is threading.current_thread() for thread in heard_in] == [is_alone] * len(heard_in)
    assert heard_in


def test_an_iterator_that_is_abandoned_ends_its_threads(small: Transcriber) -> None:
    segments = small.transcribe_stream(np.tile(RECORDING, 4))
    next(segments)
    assert stages() != []
    segments.close()
    assert stages() == []
    segments = small.transcribe_stream(np.tile(RECORDING, 4))
    next(segments)
    del segments
    gc.collect()
    assert stages() == []


class _StopError(Exception):
    pass


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_exception_in_on_progress_ends_everything(small: Transcriber, at: int, tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(wav(np.tile(RECORDING, 4)))
    seen: list[Progress] = []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == at:
            raise _StopError

    with path.open("rb") as file, pytest.raises(_StopError):
        small.transcribe(file, on_progress=stop)
    assert len(seen) == at
    assert stages() == []


def test_an_error_of_the_engine_is_raised_and_ends_the_decoder(deaf: Transcriber) -> None:
    broken = replace(deaf, engine=Failing(deaf.engine))
    with pytest.raises(ArithmeticError, match="the network"):
        broken.transcribe(np.tile(RECORDING, 4))
    assert stages() == []


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (b"", EmptyAudioError),
        (np.zeros(0, np.float32), EmptyAudioError),
        (b"not a recording at all" * 100, NotAudioError),
    ],
)
def test_what_is_no_recording_is_an_error_of_its_own(
    deaf: Transcriber, source: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        deaf.transcribe(source)
    with pytest.raises(error):
        next(deaf.transcribe_stream(source))
    assert stages() == []


def test_what_was_said_before_a_fault_is_yielded_before_it_is_raised(deaf: Transcriber) -> None:
    data = clips.encode(RECORDING[: 70 * SAMPLE_RATE], SAMPLE_RATE, "flac")
    found = []
    with pytest.raises(TruncatedAudioError):
        for segment in deaf.transcribe_stream(data[: len(data) * 9 // 10]):
            found.append(segment)
    whole = list(deaf.transcribe_stream(data))
    assert 0 < len(found) < len(whole)
    assert spans_of(found)[:-1] == spans_of(whole)[: len(found) - 1]
    with pytest.raises(TruncatedAudioError):
        deaf.transcribe(data[: len(data) * 9 // 10])


def test_a_recording_that_grows_too_long_is_refused(deaf: Transcriber) -> None:
    def endless() -> Iterator[bytes]:
        yield clips.pcm_wav(np.zeros(0, np.int16))[:40] + b"\xff\xff\xff\xff"

    class Endless(io.RawIOBase):
        head = b"".join(endless())

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            head, self.head = self.head, b""
            return head or bytes(65_536)

    with pytest.raises(AudioTooLongError):
        deaf.transcribe(Endless(), TranscribeOptions(max_duration_s=130))
    assert stages() == []


# --- memory ---------------------------------------------------------------------------------------------

MINUTES = """
import resource, sys, wave
from pathlib import Path
import numpy as np
import torch
from sensevoice.checkpoint import load_checkpoint
from sensevoice.engine import TorchEngine
from sensevoice.pipeline import Transcriber
from sensevoice.vad import VoiceActivityDetector

torch.set_num_threads(1)
MODEL, VAD, MINUTE, COUNT = *map(Path, sys.argv[1:4]), int(sys.argv[4])

class Long:
    '''The wav of one minute over and over.'''
    def __init__(self, minutes):
        with wave.open(str(MINUTE)) as file:
            self.pcm = file.readframes(-1)
        self.header = MINUTE.read_bytes()[:40] + b"\\xff\\xff\\xff\\xff"
        self.left = minutes * len(self.pcm)
        self.at = 0
    def seek(self, *_): raise OSError
    def tell(self): raise OSError
    def readable(self): return True
    def seekable(self): return False
    def read(self, size=-1):
        if self.header:
            header, self.header = self.header, b""
            return header
        start = self.at % len(self.pcm)
        piece = self.pcm[start : start + min(size, self.left)]
        self.at += len(piece)
        self.left -= len(piece)
        return piece

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

transcriber = Transcriber(TorchEngine(load_checkpoint(MODEL), "cpu"), VoiceActivityDetector.load(VAD))
transcriber.transcribe(Long(2))
before = peak()
transcript = transcriber.transcribe(Long(COUNT))
print(transcript.duration_s, len(transcript.segments), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes there")
def test_memory_does_not_grow_with_the_recording(
    small_checkpoint: Path, small_vad: Path, tmp_path: Path
) -> None:
    """The samples of these 45 minutes would be 173 MB."""
    minute = np.concatenate([speech_like(10, pauses=True), np.zeros(50 * SAMPLE_RATE, np.float32)])
    (tmp_path / "minute.wav").write_bytes(wav(minute))
    arguments = (str(small_checkpoint), str(small_vad), str(tmp_path / "minute.wav"), "45")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", MINUTES, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stderr == ""
    duration_s, segments, grown = map(float, run.stdout.split())
    assert (duration_s, segments) == (2_700, 45 * 4)
    assert grown < 60_000_000
