"""Stage "evaluate": a packed model on every test set, as a user would run it; Whisper-base beside it.

Writes W/evaluation.json (every clip with what was heard) and W/evaluation.md (the tables of the model card).
Stage "card" puts these tables into W/NAME/MODEL_CARD.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sensevoice.audio import SAMPLE_RATE, decode
from sensevoice.finetune.dataset import Example, read_examples
from sensevoice.finetune.scoring import Confusion, ErrorRate
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.options import TranscribeOptions, VadOptions
from sensevoice.pipeline import Transcriber
from sensevoice.transcript import Transcript
from sensevoice.vad import VoiceActivityDetector
from training.comparison import syllable_edits, word_edits

SYNTHETIC_SETS = ("clean", "noisy", "telephone", "other-engines")
REAL_SETS = ("librivox", "cards", "examples", "audioeval")
SYLLABLE_SET = "syllables"
SOUND_SETS = ("events", "nothing")
VAD_SETS = (*REAL_SETS, "unlabelled")
VAD_FRAME_MS = 10
CARD = "MODEL_CARD.md"
CARD_MARKS = ("<!-- measured -->", "<!-- end of measured -->")
LANGUAGE_ORDER = ("zh", "en", "yue", "ja", "ko")
COMPARED = ("auto", "whisper auto")
Row = tuple[str, ...]
TAG_ORDERS = {
    "language": (*LANGUAGE_ORDER, "nospeech"),
    "emotion": ("NEUTRAL", "HAPPY", "SAD", "ANGRY"),
    "event": ("Speech", "BGM", "Laughter", "Applause", "Cough", "Event_UNK"),
}


@dataclass(frozen=True)
class Answer:
    """What one system heard in one clip; "" is nothing, and where a system has no such answer."""

    text: str
    language: str
    emotion: str = ""
    event: str = ""


@dataclass(frozen=True)
class Result:
    """One clip, its truth, and the answers by system."""

    set: str
    key: str
    text: str
    language: str
    emotion: str
    event: str
    answers: dict[str, Answer]


SYSTEMS = {
    "auto": "starter",
    "given": "starter, language given",
    "whole": "starter, whole clip",
    "whisper auto": "Whisper-base",
    "whisper given": "Whisper-base, language given",
}


def evaluate_model(work: Path, folder: Path, vad_reference: Path | None = None) -> str:
    """Run everything on the model in `folder`, write both files, and return the Markdown.

    `vad_reference` is a folder with the official fsmn-vad, without which its row is left out.
    """
    transcriber = Transcriber.load(str(folder), device="cpu", offline=True)
    results = list(judged(work, transcriber, heard_by_whisper(work)))
    if not results:
        raise FileNotFoundError(f"there are no test sets in {work / 'testsets'}: run stage testsets first")
    agreement = vad_agreement(work, transcriber.vad, vad_reference) if vad_reference else None
    megabytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    content = {
        "vad": agreement and asdict(agreement),
        "megabytes": megabytes,
        "clips": [asdict(one) for one in results],
    }
    (work / "evaluation.json").write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    report = markdown(results, agreement, megabytes)
    (work / "evaluation.md").write_text(report, encoding="utf-8")
    return report


def judged(work: Path, transcriber: Transcriber, whisper: dict[str, dict[str, Answer]]) -> Iterator[Result]:
    """Every clip of every set that is there."""
    for name in (*SYNTHETIC_SETS, *REAL_SETS, SYLLABLE_SET, *SOUND_SETS):
        manifest = work / "testsets" / f"{name}.jsonl"
        for clip in read_examples(manifest) if manifest.exists() else ():
            answers = {**hear(transcriber, clip), **whisper.get(f"{name}/{clip.key}", {})}
            yield Result(name, clip.key, clip.target, clip.language, clip.emotion, clip.event, answers)


def hear(transcriber: Transcriber, clip: Example) -> dict[str, Answer]:
    """The model's answers: as it comes, with the language given, and without voice activity detection."""
    spoken = TranscribeOptions(use_itn=False)
    asked = {"auto": spoken, "whole": TranscribeOptions(use_itn=False, use_vad=False)}
    if clip.target:
        asked["given"] = TranscribeOptions(use_itn=False, language=clip.language)
    return {name: answer(transcriber.transcribe(clip.source, options)) for name, options in asked.items()}


def answer(transcript: Transcript) -> Answer:
    """The words, and the tags of most of the time; language nospeech if nothing was heard."""
    return Answer(
        transcript.text,
        _longest(transcript, "language") or "nospeech",
        _longest(transcript, "emotion"),
        _longest(transcript, "event"),
    )


def _longest(transcript: Transcript, kind: str) -> str:
    seconds: dict[str, float] = {}
    for segment in transcript.segments:
        name = getattr(segment, kind)
        seconds[name] = seconds.get(name, 0.0) + segment.duration_s
    return max(seconds, key=seconds.__getitem__, default="")


def heard_by_whisper(work: Path) -> dict[str, dict[str, Answer]]:
    """What `whisper_base.py` left, by set and clip, as far as the clips are still the same."""
    path = work / "whisper-base.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {
        name: {f"whisper {mode}": Answer(**heard[mode]) for mode in ("auto", "given")}
        for name, heard in content.items()
        if _sha256(work / "testsets" / f"{name}.wav") == heard["sha256"]
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


# --- voice activity --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Frames of 10 ms on which two detectors say the same."""

    clips: int
    seconds: float
    frames: int
    same: int
    speech_missed: int  # the official one hears speech, ours does not
    speech_added: int


def vad_agreement(work: Path, ours: VoiceActivityDetector, reference: Path) -> Agreement:
    """Compare the spans of two detectors, both with the default options, on the recordings of people."""
    official = VoiceActivityDetector.load(reference)
    paths = [path for name in VAD_SETS for path in sorted((work / "testsets" / name).glob("*.wav"))]
    pairs = [(speech_frames(official, clip), speech_frames(ours, clip)) for clip in map(decode, paths)]
    wanted, found = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return Agreement(
        clips=len(paths),
        seconds=len(wanted) * VAD_FRAME_MS / 1000,
        frames=len(wanted),
        same=int((wanted == found).sum()),
        speech_missed=int((wanted & ~found).sum()),
        speech_added=int((found & ~wanted).sum()),
    )


def speech_frames(vad: VoiceActivityDetector, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Whether each 10 ms of a recording lie in a span of speech."""
    frames = np.zeros(len(samples) * 1000 // SAMPLE_RATE // VAD_FRAME_MS, dtype=bool)
    for span in vad.speech_spans(samples, VadOptions()):
        frames[span.start_ms // VAD_FRAME_MS : span.end_ms // VAD_FRAME_MS] = True
    return frames


# --- tables ----------------------------------------------------------------------------------------


def markdown(results: Sequence[Result], agreement: Agreement | None, megabytes: float) -> str:
    """The tables of the model card."""
    parts = [
        summary(results, agreement, megabytes),
        error_table(results),
        language_table(results),
        *(confusion_table(kind, results) for kind in ("language", "emotion", "event")),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def error_rate(results: Iterable[Result], system: str, *, tones: bool = True) -> ErrorRate:
    """Of the clips that have words and that the system heard."""
    rate = ErrorRate()
    for one in results:
        if one.text and system in one.answers:
            found = one.answers[system].text
            if one.set == SYLLABLE_SET:
                rate.add(*syllable_edits(found, one.text, tones=tones))
            else:
                rate.add(*word_edits(found, one.text, one.language))
    return rate


def tags(results: Iterable[Result], kind: str, system: str = "auto") -> Confusion:
    """What was heard against what was there, of the clips whose truth is known."""
    judged = (one for one in results if getattr(one, kind) and system in one.answers)
    return Confusion.of(
        (getattr(one.answers[system], kind) or "nothing", getattr(one, kind)) for one in judged
    )


def of_sets(results: Iterable[Result], names: Iterable[str]) -> list[Result]:
    """Those of some sets."""
    wanted = set(names)
    return [one for one in results if one.set in wanted]


def summary(results: Sequence[Result], agreement: Agreement | None, megabytes: float) -> str:
    """Reached against aimed at."""
    rows = [*rate_rows(results), *tag_rows(results)]
    if silent := of_sets(results, ["nothing"]):
        written = sum(bool(one.answers["auto"].text) for one in silent)
        rows.append(("noise and silence: clips with words in them", str(len(silent)), str(written), "", "0"))
    if agreement:
        parts = (agreement.same, agreement.speech_missed, agreement.speech_added)
        share = "{} ({} missed, {} added)".format(*(_percent(part / agreement.frames, 1) for part in parts))
        length = f"{agreement.clips} ({agreement.seconds:.0f} s)"
        rows.append(("voice activity: frames as the official fsmn-vad", length, share, "", "95 %"))
    rows.append(("size on disk, detector and all", "", f"{megabytes:.1f} MB", "145 MB", "20 MB"))
    return table(("what", "clips", "reached", "Whisper-base", "aim"), rows)


def rate_rows(results: Sequence[Result]) -> Iterator[Row]:
    """Error rates and languages found, with the language left open."""
    for name, sets, aim in (
        ("unseen synthetic voices and sentences, clean", ("clean",), "10 %"),
        ("the same, noise at 10 dB", ("noisy",), "20 %"),
        ("the same, telephone", ("telephone",), "20 %"),
        ("recordings with transcripts", REAL_SETS, "35 %"),
        ("syllables in sequence", (SYLLABLE_SET,), "35 %"),
    ):
        if clips := [one for one in of_sets(results, sets) if one.text]:
            yield (name, str(len(clips)), *(_mean_rate(clips, system) for system in COMPARED), aim)
    for name, sets, aim in (
        ("language found, synthetic", ("clean",), "95 %"),
        ("language found, recordings", REAL_SETS, "85 %"),
    ):
        if clips := [one for one in of_sets(results, sets) if one.text]:
            found = (tags(clips, "language", system) for system in COMPARED)
            shares = (_percent(one.accuracy) if one.clips == len(clips) else "" for one in found)
            yield (name, str(len(clips)), *shares, aim)


def tag_rows(results: Sequence[Result]) -> Iterator[Row]:
    """Emotions and events, which Whisper does not name."""
    events = [one for one in of_sets(results, (*REAL_SETS, "events")) if one.event not in ("", "Speech")]
    for name, kind, clips, aim in (
        ("emotion by rule, macro-F1", "emotion", of_sets(results, ["clean"]), "0.80"),
        ("recorded events, macro-F1", "event", events, "0.70"),
    ):
        if clips:
            yield (name, str(len(clips)), f"{tags(clips, kind).macro_f1:.2f}", "", aim)


def _mean_rate(results: Sequence[Result], system: str) -> str:
    """The mean over the languages, each counted in its own units; "" unless the system heard every clip."""
    languages = sorted({one.language for one in results})
    rates = [error_rate((one for one in results if one.language == name), system) for name in languages]
    if sum(rate.clips for rate in rates) < len(results):
        return ""
    return _percent(sum(rate.rate for rate in rates) / len(rates))


def error_table(results: Sequence[Result]) -> str:
    """Error rates by set and language, of all systems."""
    rows = []
    for name in (*SYNTHETIC_SETS, *REAL_SETS, SYLLABLE_SET):
        clips = [one for one in of_sets(results, [name]) if one.text]
        for language in (one for one in LANGUAGE_ORDER if any(clip.language == one for clip in clips)):
            own = [one for one in clips if one.language == language]
            cells = (_rate_cell(error_rate(own, system), len(own)) for system in SYSTEMS)
            rows.append((name, language, str(len(own)), *cells))
            if name == SYLLABLE_SET:
                toneless = (error_rate(own, system, tones=False) for system in SYSTEMS)
                cells = (_rate_cell(one, len(own)) for one in toneless)
                rows.append((f"{name}, tones aside", language, str(len(own)), *cells))
    return table(("set", "language", "clips", *SYSTEMS.values()), rows)


def _rate_cell(rate: ErrorRate, clips: int) -> str:
    """The rate, and of how many clips if not of all."""
    if not rate.clips:
        return ""
    return _percent(rate.rate) + (f" of {rate.clips}" if rate.clips < clips else "")


def language_table(results: Sequence[Result]) -> str:
    """How often each system finds the language by itself."""
    rows = []
    for name in (*SYNTHETIC_SETS, *REAL_SETS, SYLLABLE_SET):
        clips = of_sets(results, [name])
        found = [tags(clips, "language", system) for system in ("auto", "whole", "whisper auto")]
        if clips:
            rows.append((name, *(f"{one.right} of {one.clips}" if one.clips else "" for one in found)))
    return table(("language found", "starter", "starter, whole clip", "Whisper-base"), rows)


def confusion_table(kind: str, results: Sequence[Result]) -> str:
    """Rows are what was there, columns what was heard."""
    judged = of_sets(results, ("clean",) if kind == "emotion" else (*REAL_SETS, *SOUND_SETS, "clean"))
    confusion = tags(judged, kind)
    order = TAG_ORDERS[kind]
    wanted, found = (sorted(names, key=_place(order)) for names in (confusion.wanted(), confusion.found()))
    rows = [(one, *(str(confusion.pairs[other, one] or "") for other in found)) for one in wanted]
    head = f"{kind}: {_percent(confusion.accuracy)} right, macro-F1 {confusion.macro_f1:.2f}"
    return table((head, *found), rows) if rows else ""


def _place(order: Sequence[str]) -> Any:
    return lambda name: (order.index(name) if name in order else len(order), name)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def write_card(work: Path, name: str) -> None:
    """Put the newest tables into the starter's card, as the packed model's own: W/NAME/MODEL_CARD.md."""
    report = (work / "evaluation.md").read_text(encoding="utf-8")
    put_into_card(STARTER_DIRECTORY / CARD, report, work / name / CARD)


def put_into_card(card: Path, report: str, target: Path) -> None:
    """Write the card to `target`, with the report in place of what stands between its two marks."""
    before, _, rest = card.read_text(encoding="utf-8").partition(CARD_MARKS[0])
    _, mark, after = rest.partition(CARD_MARKS[1])
    if not mark:
        raise ValueError(f"{card} does not have the lines {CARD_MARKS[0]} and {CARD_MARKS[1]}")
    target.write_text(f"{before}{CARD_MARKS[0]}\n\n{report}\n{CARD_MARKS[1]}{after}", encoding="utf-8")
