"""The evaluation: what it makes, how it compares, and a whole run with the starter on a handful of clips."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sensevoice.audio import decode
from sensevoice.finetune.dataset import read_examples
from sensevoice.hub import STARTER_DIRECTORY
from training.comparison import syllable_edits, word_edits
from training.disturbances import at_snr, babble, engine, rain, telephone
from training.results import (
    Answer,
    Result,
    evaluate_model,
    heard_by_whisper,
    markdown,
    put_into_card,
    vad_agreement,
)
from training.testsets import Clip, common_syllables, noisy, nothing, write_set, zhuyin

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
RATE = 16_000


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def level_db(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-20))


# --- disturbances ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [rain, engine])
def test_noise_has_the_asked_level_below_the_speech(kind) -> None:
    speech = 0.1 * tone(440)
    noise = kind(np.random.default_rng(0), len(speech))
    added = at_snr(speech, noise, 10.0) - speech
    assert level_db(speech) - level_db(added) == pytest.approx(10.0, abs=0.01)


def test_loud_mixtures_are_turned_down_and_not_clipped() -> None:
    mixed = at_snr(3 * tone(440), 3 * tone(441), 0.0)
    assert np.abs(mixed).max() == pytest.approx(0.98)


def test_noise_is_the_same_for_the_same_seed_and_another_for_the_next_clip() -> None:
    clips = [Clip(str(n), tone(440)) for n in range(4)]
    voices, loops = [tone(200 + n, 0.7) for n in range(5)], [tone(90, 0.3)]
    first, again = (list(noisy(clips, voices, loops, seed=3)) for _ in range(2))
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.samples, same.samples)
    assert not np.array_equal(first[0].samples, first[1].samples)


def test_babble_is_of_several_voices() -> None:
    voices = [tone(hz) for hz in (500, 1_000, 1_500, 2_000)]
    spectrum = np.abs(np.fft.rfft(babble(np.random.default_rng(0), RATE, voices)))
    assert set(np.argsort(spectrum)[-4:]) == {500, 1_000, 1_500, 2_000}


@pytest.mark.parametrize(("hz", "passes"), [(100, False), (1_000, True), (3_000, True), (5_000, False)])
def test_a_telephone_passes_only_its_band(hz: int, passes: bool) -> None:
    heard = telephone(np.concatenate([tone(1_000), tone(hz)]))
    assert len(heard) == 2 * RATE
    loss_db = level_db(tone(hz)) - level_db(heard[RATE + 800 : -800])
    assert loss_db < 1 if passes else loss_db > 25


# --- sets ------------------------------------------------------------------------------------------


def test_a_set_is_written_as_sound_and_json_lines(tmp_path: Path) -> None:
    clip = Clip("a", tone(440), "早晨", "yue", "HAPPY", "Speech")
    assert write_set(tmp_path, "clean", [clip]) == 1
    (example,) = read_examples(tmp_path / "clean.jsonl")
    assert (example.target, example.language, example.emotion) == ("早晨", "yue", "HAPPY")
    assert (example.source_len, example.target_len) == (98, 2)
    np.testing.assert_allclose(decode(example.source), clip.samples, atol=1 / 32_000)


def test_nothing_is_silence_and_noise_without_words() -> None:
    clips = list(nothing(seed=0))
    assert {clip.language for clip in clips} == {"nospeech"}
    assert not any(clip.text for clip in clips)
    assert not clips[-1].samples.any()


def test_syllables_are_those_of_common_characters() -> None:
    pytest.importorskip("pypinyin")
    known = common_syllables()
    assert known[zhuyin("ㄊㄢ3")] == "tan3"
    assert known[zhuyin("ㄊㄧㄢ")] == "tian1"
    assert zhuyin("ㄇㄛ1") not in known  # gcin's neutral tone
    assert zhuyin("ㄅ") not in known


# --- comparison ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "wanted", "language", "expected"),
    [
        ("開放時間早上9點，至下午5點。", "开放时间早上九点至下午五点", "zh", (0, 13)),
        ("係邊度呀？", "系边度呀", "yue", (0, 4)),
        ("Mr. Dashwood's neighbours have 10 dogs", "mister dashwood's neighbors have ten dogs", "en", (0, 7)),
        ("1, 2, 3", "one two three", "en", (0, 1)),
        ("Hello word", "hello world", "en", (1, 2)),
    ],
)
def test_script_spelling_and_digits_do_not_count_as_errors(
    found: str, wanted: str, language: str, expected: tuple[int, int]
) -> None:
    pytest.importorskip("whisper_normalizer" if language == "en" else "opencc")
    assert word_edits(found, wanted, language) == expected


@pytest.mark.parametrize(
    ("found", "wanted", "language", "expected"),
    [
        ("50円のパン", "五十円のパン", "ja", (0, 6)),
        ("1,500円", "千五百円", "ja", (0, 4)),
        ("사과 3개", "사과 세개", "ko", (0, 4)),
        ("010", "영일영", "ko", (0, 3)),
        ("123456789円", "円", "ja", (9, 1)),
        ("", "円", "ja", (1, 1)),
    ],
)
def test_digits_are_spelled_in_the_way_that_fits_best(
    found: str, wanted: str, language: str, expected: tuple[int, int]
) -> None:
    assert word_edits(found, wanted, language) == expected


def test_a_syllable_is_right_if_a_reading_of_the_character_is() -> None:
    pytest.importorskip("pypinyin")
    assert syllable_edits("行了", "hang2 liao3", tones=True) == (0, 2)
    assert syllable_edits("航料", "hang2 liao3", tones=True) == (1, 2)
    assert syllable_edits("航料", "hang2 liao3", tones=False) == (0, 2)
    assert syllable_edits("", "hang2 liao3", tones=False) == (2, 2)


# --- tables ----------------------------------------------------------------------------------------


def result(name: str, text: str, found: str, **tags: str) -> Result:
    answer = Answer(found, tags.get("heard", "ko"), "HAPPY", "Speech")
    return Result(name, "k", text, "ko", tags.get("emotion", ""), "Speech", {"auto": answer})


def test_the_tables_give_rates_and_counts() -> None:
    results = [
        result("clean", "가나다라", "가나다마", emotion="HAPPY"),
        result("clean", "가나", "가나", emotion="SAD", heard="ja"),
    ]
    report = markdown(results, None, 12.34)
    assert "| unseen synthetic voices and sentences, clean | 2 | 17 % |  | 10 % |" in report
    assert "| language found, synthetic | 2 | 50 % |  | 95 % |" in report
    assert "| emotion by rule, macro-F1 | 2 | 0.33 |  | 0.80 |" in report  # (2/3 + 0) / 2
    assert "| clean | ko | 2 | 17 % |  |  |  |  |" in report
    assert "| language: 50 % right, macro-F1 0.67 | ja | ko |\n| --- | --- | --- |\n| ko | 1 | 1 |" in report
    assert "| size on disk, detector and all |  | 12.3 MB | 145 MB | 20 MB |" in report


def test_a_system_that_heard_only_some_clips_says_so() -> None:
    both = result("clean", "가나다라", "가나다라")
    both.answers["whisper auto"] = Answer("가나다", "ko")
    report = markdown([both, result("clean", "마", "마")], None, 1.0)
    assert "| clean | ko | 2 | 0 % |  |  | 25 % of 1 |  |" in report
    assert "clean | 2 | 0 % |  | 10 % |" in report  # nothing to compare with there
    whole = markdown([both], None, 1.0)
    assert "clean | 1 | 0 % | 25 % | 10 % |" in whole


def test_words_written_where_nobody_speaks_are_counted() -> None:
    clips = [
        Result("nothing", k, "", "nospeech", "", "", {"auto": Answer(k, "nospeech")}) for k in ("", "음")
    ]
    assert "| noise and silence: clips with words in them | 2 | 1 |  | 0 |" in markdown(clips, None, 1.0)


def test_the_card_keeps_what_stands_around_the_tables(tmp_path: Path) -> None:
    card = tmp_path / "MODEL_CARD.md"
    card.write_text("# Before\n<!-- measured -->\nold\n<!-- end of measured -->\nAfter\n", encoding="utf-8")
    for _ in range(2):
        put_into_card(card, "| new |\n", card)
    expected = "# Before\n<!-- measured -->\n\n| new |\n\n<!-- end of measured -->\nAfter\n"
    assert card.read_text(encoding="utf-8") == expected


def test_a_card_without_marks_is_left_alone(tmp_path: Path) -> None:
    card = tmp_path / "MODEL_CARD.md"
    card.write_text("# Card\n", encoding="utf-8")
    with pytest.raises(ValueError, match="does not have the lines"):
        put_into_card(card, "x", card)
    assert card.read_text(encoding="utf-8") == "# Card\n"


# --- a whole run -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with the starter as its model and the page's Japanese and Korean clips as a test set."""
    work = tmp_path_factory.mktemp("work")
    shutil.copytree(STARTER_DIRECTORY, work / "model")
    truth = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
    clips = [
        Clip(Path(name).stem, decode(EXAMPLES / name), one["text"], one["language"], one["emotion"], "Speech")
        for name, one in truth.items()
        if one.get("language") in ("ja", "ko")
    ]
    (work / "testsets").mkdir()
    assert write_set(work / "testsets", "clean", clips) == 2
    write_set(
        work / "testsets", "nothing", [Clip("silence", np.zeros(RATE, np.float32), language="nospeech")]
    )
    write_set(work / "testsets", "unlabelled", [Clip("ko", clips[1].samples)])
    return work


def test_a_model_is_evaluated_on_what_is_there(work: Path) -> None:
    report = evaluate_model(work, work / "model", work / "model" / "vad")
    assert report == (work / "evaluation.md").read_text(encoding="utf-8")
    assert "| voice activity: frames as the official fsmn-vad | 1 (" in report
    assert "| 100.0 % (0.0 % missed, 0.0 % added) |  | 95 % |" in report  # the same detector on both sides
    assert "| clean | ja | 1 |" in report
    assert "| language: 100 % right" in report
    clips = json.loads((work / "evaluation.json").read_text(encoding="utf-8"))["clips"]
    heard = {clip["key"]: clip["answers"]["auto"] for clip in clips}
    assert heard["silence"] == {"text": "", "language": "nospeech", "emotion": "", "event": ""}
    assert {heard[key]["language"] for key in heard if key != "silence"} == {"ja", "ko"}


def test_another_systems_answer_counts_only_for_the_very_same_clip(tmp_path: Path) -> None:
    write_set(
        tmp_path / "testsets", "clean", [Clip("a", tone(440), "음", "ko"), Clip("b", tone(440), "음", "ko")]
    )
    digest = hashlib.sha256((tmp_path / "testsets" / "clean" / "a.wav").read_bytes()).hexdigest()
    answers = {mode: {"language": "ko", "text": "음"} for mode in ("auto", "given")}
    content = {f"clean/{key}": {"sha256": digest, **answers} for key in ("a", "gone")}
    content["clean/b"] = {"sha256": "of an earlier clip", **answers}
    (tmp_path / "whisper-base.json").write_text(json.dumps(content), encoding="utf-8")
    heard = heard_by_whisper(tmp_path)
    assert heard == {"clean/a": {"whisper auto": Answer("음", "ko"), "whisper given": Answer("음", "ko")}}


def test_an_evaluation_without_test_sets_says_which_stage_is_missing(work: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run stage testsets first"):
        evaluate_model(tmp_path, work / "model")
    assert not list(tmp_path.iterdir())


def test_frames_of_two_detectors_are_counted(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sensevoice.spans import Span
    from sensevoice.vad import VoiceActivityDetector

    ours = VoiceActivityDetector.load(work / "model" / "vad")
    answers = iter([[Span(100, 400)], [Span(200, 500)]])
    monkeypatch.setattr(VoiceActivityDetector, "speech_spans", lambda *_: next(answers))
    agreement = vad_agreement(work, ours, work / "model" / "vad")
    assert (agreement.speech_missed, agreement.speech_added) == (10, 10)
    assert agreement.same == agreement.frames - 20
