from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensevoice.checkpoint import Vocabulary
from sensevoice.ctc import TagChoices, Token, greedy_tokens, heard_language, raw_text, read_scores
from sensevoice.scores import FrameScores
from sensevoice.spans import Span
from sensevoice.tags import TAGS, Tag, TagKind, find_tag

PIECES = [
    *("<unk>", "<s>", "</s>", "▁", "▁the", "s", "▁The.", "今", "天", "，", "▁a"),
    *("<|zh|>", "<|en|>", "<|yue|>", "<|ja|>", "<|ko|>", "<|nospeech|>"),
    *("<|HAPPY|>", "<|SAD|>", "<|NEUTRAL|>", "<|EMO_UNKNOWN|>"),
    *("<|Speech|>", "<|BGM|>", "<|Laughter|>", "<|withitn|>", "<|woitn|>", "<|de|>", "<|SPECIAL_TOKEN_1|>"),
]
ID = {piece.strip("<|>") if piece.startswith("<|") else piece: id for id, piece in enumerate(PIECES)}


class SmallVocabulary:
    blank_id = 0
    texts = tuple("" if piece.startswith("<") else piece.replace("▁", " ") for piece in PIECES)
    is_spelled = True

    def decode(self, ids: Sequence[int]) -> str:
        text = "".join(PIECES[id] for id in ids if PIECES[id] not in ("<s>", "</s>"))
        return text.replace("▁", " ").removeprefix(" ")

    def tag_ids(self, kind: TagKind) -> Mapping[str, int]:
        if kind is TagKind.CUSTOM:
            return {"SPECIAL_TOKEN_1": ID["SPECIAL_TOKEN_1"]}
        known = {name: find_tag(name) for name in ID}
        return {name: ID[name] for name, tag in known.items() if tag and tag.kind is kind}


VOCABULARY = SmallVocabulary()
PREFIX = [ID["zh"], ID["HAPPY"], ID["Speech"], ID["withitn"]]


def make_scores(
    speech: Sequence[int],
    probabilities: Sequence[float] | None = None,
    tags: Sequence[Mapping[str, float]] = ({}, {}, {}, {}),
    prefix: Sequence[int] = PREFIX,
    size: int = len(PIECES),
) -> FrameScores:
    """Scores whose query frames give each named tag its probability, and the prefix's tag the rest."""
    log_probs = np.full((4, size), -30.0, np.float32)
    for frame, (best, named) in enumerate(zip(prefix, tags, strict=True)):
        log_probs[frame, best] = math.log(max(1 - sum(named.values()), 1e-9))
        for name, probability in named.items():
            log_probs[frame, ID[name]] = math.log(probability)
    spoken = [0.9] * len(speech) if probabilities is None else probabilities
    return FrameScores(
        np.array([*prefix, *speech], np.int32),
        np.array([1.0] * 4 + [*spoken], np.float32),
        log_probs,
        np.arange(size, dtype=np.int32),
    )


# Tokens -------------------------------------------------------------------------------------------


def test_a_token_has_the_frames_that_the_greedy_path_gives_it() -> None:
    scores = make_scores(
        [ID["今"], ID["今"], 0, 0, ID["天"], 0, ID["，"]], [0.5, 0.75, 1.0, 1.0, 0.25, 1.0, 0.125]
    )
    assert greedy_tokens(scores, VOCABULARY) == (
        Token("今", 0.0, 0.09, 0.625),
        Token("天", 0.21, 0.27, 0.25),
        Token("，", 0.33, 0.39, 0.125),
    )


def test_equal_tokens_with_a_blank_between_them_are_two() -> None:
    tokens = greedy_tokens(make_scores([ID["天"], 0, ID["天"], ID["天"]]), VOCABULARY)
    assert [(token.text, token.start_s, token.end_s) for token in tokens] == [
        ("天", 0.0, 0.03),
        ("天", 0.09, 0.21),
    ]


def test_a_word_begins_with_a_space_and_a_lone_space_leads_the_next_token() -> None:
    speech = [ID["▁the"], ID["s"], ID["▁"], ID["今"], ID["▁"]]
    reading = read_scores(make_scores(speech), VOCABULARY)
    assert [token.text for token in reading.tokens] == [" the", "s", " 今"]
    assert reading.text == "thes 今"


def test_a_tag_among_the_words_is_dropped_and_still_parts_equal_tokens() -> None:
    scores = make_scores([ID["天"], ID["BGM"], ID["天"], ID["de"]])
    reading = read_scores(scores, VOCABULARY)
    assert reading.text == "天天"
    assert [token.start_s for token in reading.tokens] == [0.0, 0.09]
    assert raw_text(scores, VOCABULARY) == "<|zh|><|HAPPY|><|Speech|><|withitn|>天<|BGM|>天<|de|>"


def test_sentence_marks_decode_to_nothing() -> None:
    reading = read_scores(make_scores([1, ID["天"], 2]), VOCABULARY)
    assert reading.text == "天"
    assert [token.text for token in reading.tokens] == ["天"]


@pytest.mark.parametrize("speech", [[], [0], [0, 0, 0], [ID["BGM"], 0]])
def test_an_utterance_without_words_has_no_tokens(speech: list[int]) -> None:
    reading = read_scores(make_scores(speech), VOCABULARY)
    assert (reading.text, reading.tokens) == ("", ())


def test_the_raw_text_collapses_all_frames_the_queries_too_as_funasr_does() -> None:
    scores = make_scores([ID["withitn"], 0, ID["▁The."], ID["▁The."]])
    assert raw_text(scores, VOCABULARY) == "<|zh|><|HAPPY|><|Speech|><|withitn|> The."
    scores = make_scores([ID["s"], 0], prefix=[ID["s"], 0, 0, ID["s"]])
    assert raw_text(scores, VOCABULARY) == "ss"


def plain_path(ids: Sequence[int], probabilities: Sequence[float]) -> list[tuple[int, float, float, float]]:
    """The loop that FunASR runs over the frames (`SenseVoiceSmall.inference`), as an oracle."""
    path, start = [], 0
    for id, group in groupby(ids):
        end = start + len(list(group))
        if id != 0 and not PIECES[id].startswith("<|"):
            mean = sum(probabilities[start:end]) / (end - start)
            path.append((id, max((start * 60 - 30) / 1000, 0), (end * 60 - 30) / 1000, mean))
        start = end
    return path


# a busy machine is no fault of the code
thorough = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
frames = st.lists(
    st.tuples(st.integers(0, len(PIECES) - 1), st.floats(0.0625, 1, width=32), st.integers(1, 4)), max_size=40
)


@given(frames)
@thorough
def test_any_path_gives_the_tokens_of_the_frame_by_frame_loop(runs: list[tuple[int, float, int]]) -> None:
    ids = [id for id, _, count in runs for _ in range(count)]
    probabilities = [probability for _, probability, count in runs for _ in range(count)]
    scores = make_scores(ids, probabilities)
    reading = read_scores(scores, VOCABULARY)
    oracle = plain_path(ids, probabilities)
    audible = [row for row in oracle if PIECES[row[0]] not in ("▁", "<s>", "</s>")]
    assert [(token.start_s, token.end_s) for token in reading.tokens] == [row[1:3] for row in audible]
    assert [token.probability for token in reading.tokens] == pytest.approx([row[3] for row in audible])
    assert reading.text == VOCABULARY.decode([row[0] for row in oracle]).strip()
    assert reading.text == "".join(token.text for token in reading.tokens).strip()
    times = [time for token in reading.tokens for time in (token.start_s, token.end_s)]
    assert times == sorted(times)


def test_the_tokens_of_an_utterance_within_a_recording_have_the_recordings_times() -> None:
    scores = make_scores([ID["今"], ID["今"], 0, ID["天"], ID["天"]], [0.5, 0.75, 1.0, 0.25, 0.5])
    assert greedy_tokens(scores, VOCABULARY, Span(1230, 2000)) == (
        Token("今", 1.23, 1.32, 0.625),
        Token("天", 1.38, 1.5, 0.375),
    )


def test_a_token_never_reaches_beyond_its_utterance() -> None:
    tokens = greedy_tokens(make_scores([ID["今"], ID["天"], ID["，"]]), VOCABULARY, Span(1000, 1085))
    assert [(token.start_s, token.end_s) for token in tokens] == [(1.0, 1.03), (1.03, 1.085), (1.085, 1.085)]


def test_times_are_whole_milliseconds_late_in_a_long_recording() -> None:
    tokens = greedy_tokens(make_scores([0, ID["今"], ID["天"]]), VOCABULARY, Span(43_199_010, 43_199_999))
    assert [(token.start_s, token.end_s) for token in tokens] == [(43199.04, 43199.1), (43199.1, 43199.16)]


def test_a_probability_is_never_above_one_although_single_precision_rounds_so() -> None:
    tokens = greedy_tokens(make_scores([ID["天"]], [1.0000001]), VOCABULARY)
    assert [token.probability for token in tokens] == [1.0]


@pytest.fixture(scope="module", params=["small", "bytes"])
def vocabulary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    """One that knows its letters, and one that spells the others in bytes."""
    directory = tmp_path_factory.mktemp("vocabulary")
    sentences = directory / "sentences.txt"
    sentences.write_text("the cat sat on the mat\n今天 天气 真好\nthat is the hat\n" * 20, encoding="utf-8")
    options = {"small": "--vocab_size=48", "bytes": "--vocab_size=300 --byte_fallback=true"}[request.param]
    sentencepiece.SentencePieceTrainer.Train(
        f"--input={sentences} --model_prefix={directory / request.param} {options} --model_type=bpe "
        "--normalization_rule_name=identity --minloglevel=2"
    )
    made = Vocabulary.load(directory / f"{request.param}.model")
    assert made.is_spelled is (request.param == "small")
    return made


@given(st.data())
@thorough
def test_a_readings_text_is_what_sentencepiece_decodes(vocabulary: Vocabulary, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, vocabulary.size - 1), max_size=30))
    reading = read_scores(make_scores(ids), vocabulary)
    spoken = [id for id, _ in groupby(ids) if id != 0]
    assert reading.text == vocabulary.decode(spoken).strip()
    if vocabulary.is_spelled:
        assert reading.text == "".join(token.text for token in reading.tokens).strip()


# Tags ---------------------------------------------------------------------------------------------


def test_a_tag_has_its_probability_among_its_kind_and_the_runner_up() -> None:
    scores = make_scores(
        [],
        tags=[
            {"en": 0.2, "ko": 0.1, "今": 0.5},  # zh has the remaining 0.2, so half the mass is no language
            {"SAD": 0.25},
            {"Laughter": 0.9},
            {"woitn": 0.4},
        ],
        prefix=[ID["zh"], ID["HAPPY"], ID["Speech"], ID["withitn"]],
    )
    reading = read_scores(scores, VOCABULARY)
    assert {reading.language.name, reading.language.runner_up} == {"zh", "en"}
    assert reading.language.probability == pytest.approx(0.4)
    assert reading.language.runner_up_probability == pytest.approx(0.4)
    assert (reading.emotion.name, reading.emotion.runner_up) == ("HAPPY", "SAD")
    assert reading.emotion.probability == pytest.approx(0.75)
    assert reading.emotion.runner_up_probability == pytest.approx(0.25)
    assert (reading.event.name, reading.event.runner_up) == ("Laughter", "Speech")
    assert reading.itn is True


def test_woitn_is_read_from_the_fourth_frame() -> None:
    prefix = [*PREFIX[:3], ID["woitn"]]
    assert read_scores(make_scores([], prefix=prefix), VOCABULARY).itn is False


def test_languages_that_are_not_allowed_are_masked_and_the_rest_renormalised() -> None:
    scores = make_scores([], tags=[{"en": 0.2, "ko": 0.1}, {}, {}, {}])
    language = read_scores(
        scores, VOCABULARY, TagChoices.of(VOCABULARY, allowed_languages=("en", "ko"))
    ).language
    assert (language.name, language.runner_up) == ("en", "ko")
    assert language.probability == pytest.approx(2 / 3)


def test_silence_is_no_language_so_nospeech_is_always_allowed() -> None:
    scores = make_scores([], prefix=[ID["nospeech"], *PREFIX[1:]], tags=[{"en": 0.2, "zh": 0.3}, {}, {}, {}])
    language = read_scores(scores, VOCABULARY, TagChoices.of(VOCABULARY, allowed_languages=("en",))).language
    assert (language.name, language.runner_up) == ("nospeech", "en")
    assert language.probability == pytest.approx(0.5 / 0.7)


def test_auto_among_the_allowed_languages_allows_all() -> None:
    scores = make_scores([], tags=[{"en": 0.2}, {}, {}, {}])
    assert (
        read_scores(
            scores, VOCABULARY, TagChoices.of(VOCABULARY, allowed_languages=("auto", "en"))
        ).language.name
        == "zh"
    )


def test_the_language_heard_is_that_of_the_network_whatever_is_allowed() -> None:
    scores = make_scores([], tags=[{"en": 0.2}, {}, {}, {}])
    assert heard_language(scores, VOCABULARY) == "zh"
    assert (
        read_scores(scores, VOCABULARY, TagChoices.of(VOCABULARY, allowed_languages=("en",))).language.name
        == "en"
    )


def test_ban_emo_unk_masks_emo_unknown_and_nothing_else() -> None:
    tags: list[dict[str, float]] = [{"en": 0.1}, {"SAD": 0.06, "NEUTRAL": 0.03}, {"BGM": 0.2}, {}]
    scores = make_scores([ID["今"]], tags=tags, prefix=[PREFIX[0], ID["EMO_UNKNOWN"], *PREFIX[2:]])
    free = read_scores(scores, VOCABULARY)
    banned = read_scores(scores, VOCABULARY, TagChoices.of(VOCABULARY, ban_emo_unk=True))
    assert (free.emotion.name, free.emotion.runner_up) == ("EMO_UNKNOWN", "SAD")
    assert (banned.emotion.name, banned.emotion.runner_up) == ("SAD", "NEUTRAL")
    assert banned.emotion.probability == pytest.approx(2 / 3)
    assert (banned.text, banned.tokens, banned.language, banned.event) == (
        *(free.text, free.tokens, free.language, free.event),
    )


def test_a_custom_tag_competes_under_its_name_only_if_the_checkpoint_names_it() -> None:
    scores = make_scores([], tags=[{}, {}, {"SPECIAL_TOKEN_1": 0.6}, {}])
    assert read_scores(scores, VOCABULARY).event.name == "Speech"
    doorbell = Tag("SPECIAL_TOKEN_1", TagKind.EVENT, "门铃", "Doorbell", given_name="Doorbell")
    event = read_scores(scores, VOCABULARY, TagChoices.of(VOCABULARY, tags=(*TAGS, doorbell))).event
    assert (event.name, event.runner_up) == ("Doorbell", "Speech")
    assert event.probability == pytest.approx(0.6)
    assert (
        read_scores(scores, VOCABULARY, TagChoices.of(VOCABULARY, tags=(*TAGS, doorbell))).emotion.name
        == "HAPPY"
    )


def test_a_vocabulary_with_one_tag_of_a_kind_has_no_runner_up_and_with_none_no_name() -> None:
    class Bare(SmallVocabulary):
        def tag_ids(self, kind: TagKind) -> Mapping[str, int]:
            return {"HAPPY": ID["HAPPY"]} if kind is TagKind.EMOTION else {}

    reading = read_scores(make_scores([]), Bare())
    assert (reading.emotion.name, reading.emotion.probability, reading.emotion.runner_up) == (
        *("HAPPY", 1.0, None),
    )
    assert (reading.language.name, reading.language.probability) == ("", 0.0)
    assert reading.itn is False


def test_log_probabilities_of_minus_infinity_make_no_nan() -> None:
    scores = make_scores([])
    scores.tag_log_probs[:] = -np.inf
    assert read_scores(scores, VOCABULARY).emotion.probability == pytest.approx(1 / 4)


def test_one_set_of_choices_reads_models_whose_tables_of_tags_differ() -> None:
    choices = TagChoices.of(VOCABULARY)
    every = make_scores([], tags=({"en": 0.75}, {"SAD": 0.75}, {"BGM": 0.75}, {}))
    fewer = np.arange(ID["zh"], len(PIECES), dtype=np.int32)
    tagged = FrameScores(every.ids, every.probabilities, every.tag_log_probs[:, fewer], fewer)
    expected = read_scores(every, VOCABULARY, choices)
    assert (expected.language.name, expected.emotion.name, expected.event.name) == ("en", "SAD", "BGM")
    assert read_scores(tagged, VOCABULARY, choices) == expected
