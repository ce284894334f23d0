from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
import yaml
from checkpoints import EMOTION_TAGS, EVENT_TAGS, LANGUAGE_TAGS, make_checkpoint

from sensevoice import checkpoint as checkpoint_module
from sensevoice.checkpoint import Checkpoint, Vocabulary, find_tokenizer, load_checkpoint
from sensevoice.errors import ModelFileError, ModelNotFoundError
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.network import NetworkShape, SenseVoiceNetwork
from sensevoice.tags import TagKind

TOKENIZER = "chn_jpn_yue_eng_ko_spectok.bpe.model"


@pytest.fixture
def folder(small_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the small checkpoint that a test may damage."""
    return Path(shutil.copytree(small_checkpoint, tmp_path / "model"))


def complaint(folder: Path) -> tuple[str, str]:
    """File name and reason of the error that loading the folder gives."""
    with pytest.raises(ModelFileError) as caught:
        load_checkpoint(folder)
    path = Path(str(caught.value.facts["path"]))
    assert path.parent == folder
    assert str(path) in str(caught.value)
    return path.name, str(caught.value.facts["reason"])


def edit_config(folder: Path, change: Callable[[dict], object]) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    change(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def edit_weights(folder: Path, change: Callable[[dict], object]) -> None:
    state = torch.load(folder / "model.pt", weights_only=True)
    torch.save(change(state) or state, folder / "model.pt")


def test_the_weights_of_the_file_are_those_of_the_network(small_checkpoint: Path, small_model: Checkpoint):
    state = torch.load(small_checkpoint / "model.pt", weights_only=True)
    loaded = small_model.network.state_dict()
    assert loaded.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(loaded[name], value), name
    assert not small_model.network.training
    assert not any(parameter.requires_grad for parameter in small_model.network.parameters())


def test_half_precision_weights_are_read_into_single_precision(folder: Path):
    edit_weights(folder, lambda state: {name: value.half() for name, value in state.items()})
    state = torch.load(folder / "model.pt", weights_only=True)
    loaded = load_checkpoint(folder).network.state_dict()
    assert {value.dtype for value in loaded.values()} == {torch.float32}
    assert all(torch.equal(loaded[name], state[name].float()) for name in loaded)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_wrapped_weights_of_a_training_run_are_unwrapped(folder: Path, wrapper: str, small_model: Checkpoint):
    def wrap(state: dict) -> dict:
        inner = {f"module.{name}": value for name, value in state.items()}
        return {wrapper: {**inner, "criterion_att.weight": torch.ones(3)}, "epoch": 7, "optimizer": {}}

    edit_weights(folder, wrap)
    loaded = load_checkpoint(folder).network.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in small_model.network.state_dict().items())


@pytest.mark.parametrize("name", ["config.yaml", "am.mvn", "model.pt"])
def test_a_missing_file_is_named(folder: Path, name: str):
    (folder / name).unlink()
    assert complaint(folder) == (name, "it is missing")


def test_a_missing_tokenizer_is_named_as_configuration_json_calls_it(folder: Path):
    (folder / TOKENIZER).unlink()
    assert complaint(folder) == (TOKENIZER, "it is missing")
    (folder / "configuration.json").unlink()
    assert complaint(folder) == ("*.bpe.model", "it is missing")


def test_a_folder_that_is_not_there_is_no_model(tmp_path: Path):
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere")


def test_configuration_json_is_optional_and_picks_among_tokenizers(folder: Path):
    shutil.copy(folder / TOKENIZER, folder / "another.bpe.model")
    assert load_checkpoint(folder).vocabulary.size > 100
    (folder / "configuration.json").unlink()
    name, reason = complaint(folder)
    assert name == "configuration.json"
    assert "another.bpe.model, " + TOKENIZER in reason
    (folder / "another.bpe.model").unlink()
    assert load_checkpoint(folder).vocabulary.size > 100


def test_configuration_json_cannot_lead_out_of_the_folder(folder: Path, tmp_path: Path):
    shutil.move(folder / TOKENIZER, tmp_path / "outside.bpe.model")
    paths = {"file_path_metas": {"tokenizer_conf": {"bpemodel": "../outside.bpe.model"}}}
    (folder / "configuration.json").write_text(json.dumps(paths))
    assert complaint(folder) == ("outside.bpe.model", "it is missing")


DAMAGES = {
    "config.yaml": "it is no YAML mapping",
    "configuration.json": "it is no JSON",
    "am.mvn": "it is no CMVN with one shift and one scale",
    "model.pt": "it is damaged, or holds more than weights",
    TOKENIZER: "it is no SentencePiece vocabulary",
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("content", [b"", b"<html>Please log in</html>"], ids=["empty", "a login page"])
def test_a_file_with_other_content_is_named(folder: Path, name: str, content: bytes):
    (folder / name).write_bytes(content)
    found, reason = complaint(folder)
    assert (found, reason) in {(name, DAMAGES[name]), (name, "it is an empty SentencePiece vocabulary")}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_weight_file_is_named(folder: Path, share: float):
    path = folder / "model.pt"
    os.truncate(path, int(path.stat().st_size * share))
    assert complaint(folder) == ("model.pt", DAMAGES["model.pt"])


def test_a_weight_file_of_which_one_bit_has_changed_is_named(folder: Path):
    path = folder / "model.pt"
    with zipfile.ZipFile(path) as parts:
        largest = max(parts.infolist(), key=lambda part: part.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + largest.file_size // 2] ^= 1
    path.write_bytes(content)
    reason = f"it is damaged: the checksum of {largest.filename} is wrong"
    assert complaint(folder) == ("model.pt", reason)


def test_a_weight_file_that_would_run_code_is_refused_unread(folder: Path, tmp_path: Path):
    class Trap:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "sprung"),)

    for protocol in (None, 2):
        if protocol is None:
            torch.save({"embed.weight": Trap()}, folder / "model.pt")
        else:
            (folder / "model.pt").write_bytes(pickle.dumps(Trap(), protocol))
        assert complaint(folder) == ("model.pt", DAMAGES["model.pt"])
        assert not (tmp_path / "sprung").exists()


def test_absent_weights_are_named_and_counted(folder: Path):
    edit_weights(folder, lambda state: {k: v for k, v in state.items() if "tp_norm" not in k})
    assert complaint(folder) == ("model.pt", "it has no weights encoder.tp_norm.weight and 1 more")
    edit_weights(folder, lambda state: [state])
    assert complaint(folder) == ("model.pt", "it holds no state dict")


def test_weights_of_another_shape_are_named_with_both_shapes(folder: Path):
    edit_weights(folder, lambda state: {**state, "embed.weight": torch.zeros(16, 400)})
    name, reason = complaint(folder)
    assert name == "model.pt"
    assert reason == "embed.weight is [16, 400], but config.yaml and the vocabulary ask for [16, 560]"


def test_weights_that_are_not_finite_are_refused(folder: Path):
    def spoil(state: dict) -> None:
        state["encoder.after_norm.bias"][3] = float("nan")

    edit_weights(folder, spoil)
    assert complaint(folder) == (
        "model.pt",
        "encoder.after_norm.bias holds values that are no finite numbers",
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update(model="Paraformer"), "it describes a 'Paraformer', not a 'SenseVoiceSmall'"),
        (lambda c: c.pop("encoder_conf"), "it has no section 'encoder_conf'"),
        (lambda c: c.update(frontend_conf=3), "it has no section 'frontend_conf'"),
        (lambda c: c["frontend_conf"].update(fs=8000), "its sampling rate is not 16000"),
        (
            lambda c: c["encoder_conf"].update(attention_heads=7),
            "its encoder_conf describes no network that can exist",
        ),
        (
            lambda c: c["encoder_conf"].update(num_blocks=0),
            "its encoder_conf describes no network that can exist",
        ),
        (
            lambda c: c["encoder_conf"].update(num_blocks="many"),
            "its encoder_conf holds no number where one is needed "
            "(invalid literal for int() with base 10: 'many')",
        ),
    ],
)
def test_a_configuration_of_something_else_says_what_is_wrong(folder: Path, change: Callable, reason: str):
    edit_config(folder, change)
    assert complaint(folder) == ("config.yaml", reason)


def test_a_cmvn_of_another_width_is_named(folder: Path):
    edit_config(folder, lambda config: config["frontend_conf"].update(lfr_m=5))
    assert complaint(folder) == ("am.mvn", "it has 560 values, but the frontend makes 400 a frame")


def test_tags_are_found_by_their_spelling_whatever_their_ids(small_model: Checkpoint):
    vocabulary = small_model.vocabulary
    assert vocabulary.tag_ids(TagKind.LANGUAGE).keys() == set(LANGUAGE_TAGS)
    assert vocabulary.tag_ids(TagKind.EMOTION).keys() == set(EMOTION_TAGS)
    assert vocabulary.tag_ids(TagKind.EVENT).keys() == set(EVENT_TAGS)
    assert vocabulary.tag_ids(TagKind.NORMALISATION).keys() == {"withitn", "woitn"}
    assert vocabulary.tag_ids(TagKind.CUSTOM).keys() == {f"SPECIAL_TOKEN_{n}" for n in (1, 2, 3)}
    for kind in TagKind:
        for name, id in vocabulary.tag_ids(kind).items():
            assert vocabulary.piece(id) == f"<|{name}|>"
            assert id in vocabulary.special_ids
    assert len(vocabulary.special_ids) == sum(len(vocabulary.tag_ids(kind)) for kind in TagKind)


def test_the_official_vocabulary_has_the_published_tag_ids(reference: Path, tmp_path: Path):
    vocabulary = official_vocabulary(reference, tmp_path)
    assert vocabulary.size == 25_055
    languages = {"zh": 24884, "en": 24885, "yue": 24888, "ja": 24892, "ko": 24896, "nospeech": 24992}
    assert vocabulary.tag_ids(TagKind.LANGUAGE) == languages
    emotions = dict(zip(EMOTION_TAGS, range(25001, 25010), strict=True))
    assert vocabulary.tag_ids(TagKind.EMOTION) == emotions
    events = {"Speech": 24993, "BGM": 24995, "Laughter": 24997, "Applause": 24999, "Cry": 25010}
    events |= {"Sneeze": 25011, "Breath": 25012, "Cough": 25013, "Sing": 25014, "Speech_Noise": 25015}
    assert vocabulary.tag_ids(TagKind.EVENT) == {**events, "GBG": 25018, "Event_UNK": 25019}
    assert vocabulary.tag_ids(TagKind.NORMALISATION) == {"withitn": 25016, "woitn": 25017}
    custom = vocabulary.tag_ids(TagKind.CUSTOM)
    assert len(custom) == 35
    assert sorted(custom.values()) == list(range(25020, 25055))


def official_vocabulary(reference: Path, folder: Path) -> Vocabulary:
    """SenseVoiceSmall's, made of the published list of its pieces."""

    def field(number: int, content: bytes) -> bytes:
        assert len(content) < 1 << 14
        return bytes([number << 3 | 2, len(content) & 127 | 128, len(content) >> 7]) + content

    tokens = (reference / "sensevoice-small" / "tokens.txt").read_text(encoding="utf-8").split("\n")[:25055]
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3}  # unknown and control; tags are user-defined, all else normal
    pieces = (
        field(1, token.encode()) + bytes([3 << 3, kinds.get(token, 4 if token.startswith("<|") else 1)])
        for token in (token.replace(" ", "▁") for token in tokens)
    )
    (folder / "official.bpe.model").write_bytes(b"".join(field(1, piece) for piece in pieces))
    return Vocabulary.load(folder / "official.bpe.model")


@pytest.mark.parametrize("name", ["official", "starter"])
def test_joined_texts_are_what_sentencepiece_decodes(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
):
    vocabulary = (
        Vocabulary.load(find_tokenizer(STARTER_DIRECTORY))
        if name == "starter"
        else official_vocabulary(request.getfixturevalue("reference"), tmp_path)
    )
    assert vocabulary.is_spelled
    texts, rng = vocabulary.texts, np.random.default_rng(0)
    assert {id for id in range(vocabulary.size) if not texts[id]} == {0, 1, 2, *vocabulary.special_ids}
    for length in (1, 2, 3, 10, 100) * 200:
        ids = [int(id) for id in rng.integers(1, vocabulary.size, length) if id not in vocabulary.special_ids]
        assert vocabulary.decode(ids).strip() == "".join(texts[id] for id in ids).strip()


def test_decoding_is_sentencepiece_decoding(small_checkpoint: Path, small_model: Checkpoint):
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(small_checkpoint / TOKENIZER))
    text = "<|zh|>今天天气真好，the lazy dog"
    ids = small_model.vocabulary.encode(text)
    assert ids == oracle.EncodeAsIds(text)
    assert small_model.vocabulary.decode(ids) == oracle.DecodeIds(ids) == text


def test_a_model_in_use_does_not_mind_that_its_file_is_overwritten(folder: Path, small_model: Checkpoint):
    network = load_checkpoint(folder).network
    with (folder / "model.pt").open("r+b") as file:
        file.write(bytes((folder / "model.pt").stat().st_size))
    for name, value in small_model.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_custom_tags_are_read_and_a_damaged_table_is_named(folder: Path):
    entry = {"name": "DOORBELL", "kind": "event", "zh": "门铃", "en": "Doorbell"}
    (folder / "custom_tags.json").write_text(json.dumps({"SPECIAL_TOKEN_2": entry}))
    (tag,) = load_checkpoint(folder).custom_tags
    assert (tag.token, tag.name, tag.zh) == ("SPECIAL_TOKEN_2", "DOORBELL", "门铃")
    (folder / "custom_tags.json").write_text("[]")
    assert complaint(folder)[0] == "custom_tags.json"


def test_a_model_of_another_make_has_no_known_licence(folder: Path):
    info = load_checkpoint(folder).info
    assert (info.name, info.path, info.is_starter) == ("model", folder, False)
    assert (info.licence, info.attribution) == ("unknown", "")
    weights = torch.load(folder / "model.pt", weights_only=True)
    assert info.parameters == sum(value.numel() for value in weights.values())


def test_the_starter_says_that_it_is_one(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint_module, "STARTER_DIRECTORY", folder)
    info = load_checkpoint(folder).info
    assert (info.name, info.is_starter) == ("starter", True)
    assert "synthetic speech" in info.attribution


def test_the_official_architecture_carries_the_official_terms(tmp_path: Path):
    with torch.device("meta"), checkpoint_module._NoInitialisation():
        network = SenseVoiceNetwork(NetworkShape())
    info = checkpoint_module.describe(tmp_path, network)
    assert info.name == "SenseVoiceSmall"
    assert info.parameters == 233_999_167
    assert info.licence == "FunASR Model Open Source License Agreement v1.1"
    assert "FunAudioLLM" in info.attribution
    assert info.licence in info.attribution


def test_checkpoints_of_any_size_can_be_loaded(tmp_path: Path):
    make_checkpoint(tmp_path, hidden=48, heads=2, blocks=1, tp_blocks=0, merges=5)
    loaded = load_checkpoint(tmp_path)
    assert loaded.network.shape == NetworkShape(560, 48, 2, 192, 1, 0, 11, loaded.vocabulary.size)
