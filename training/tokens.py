"""The starter's SentencePiece model: single characters, English word pieces and the rich tags."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto

TOKENIZER = "starter.bpe.model"  # the file's name
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # SentencePiece piece types
BPE = 2  # SentencePiece model type
ENGLISH_PIECES = 1_000  # with the single characters
LIMIT = 5_200  # besides them
SPACE = "▁"
SPECIAL_PIECES = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
TAGS = [  # in the order of the official vocabulary (ids 24884 to 25054 there)
    "zh", "en", "yue", "ja", "ko", "nospeech", "Speech", "BGM", "Laughter", "Applause",
    "HAPPY", "SAD", "ANGRY", "NEUTRAL", "FEARFUL", "DISGUSTED", "SURPRISED", "OTHER", "EMO_UNKNOWN",
    "Cry", "Sneeze", "Breath", "Cough", "Sing", "Speech_Noise", "withitn", "woitn", "GBG", "Event_UNK",
    *(f"SPECIAL_TOKEN_{number}" for number in range(1, 36)),
]  # fmt: skip
PRINTABLE_ASCII = "".join(map(chr, range(33, 127)))
PUNCTUATION = "，。？！、：；「」（）・ー々〜…"
ENGLISH_LINE = re.compile(r"[\x20-\x7e£]+")


def build(path: Path, lines: Iterable[str], english_pieces: int = ENGLISH_PIECES) -> int:
    """Write the model (and `path`.txt, its pieces in order) for the characters of `lines`.

    No prefix space is added, as in the official model: an utterance's first word has no word-start
    mark, so that no space follows the tags. Returns the number of pieces.
    """
    texts = list(lines)
    characters = sorted({c for text in texts for c in text if c != " "} | {*PRINTABLE_ASCII, *PUNCTUATION})
    english = _english_pieces([text for text in texts if ENGLISH_LINE.fullmatch(text)], english_pieces)
    merged = [piece for piece in english if len(piece) > 1]
    pieces = [*SPECIAL_PIECES, *((piece, NORMAL) for piece in [*merged, SPACE, *characters])]
    pieces += [(f"<|{tag}|>", USER_DEFINED) for tag in TAGS]
    if len(pieces) > LIMIT + english_pieces:
        raise ValueError(f"{len(pieces)} pieces, more than {LIMIT + english_pieces}")
    path.write_bytes(_model(pieces).SerializeToString(deterministic=True))
    path.with_suffix(".txt").write_text("\n".join(piece for piece, _ in pieces) + "\n", encoding="utf-8")
    return len(pieces)


def round_trips(path: Path) -> Callable[[str], bool]:
    """A test of whether a text survives encoding and decoding with the model, without <unk>."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))

    def faithful(text: str) -> bool:
        ids = model.encode(text)
        return 0 not in ids and model.decode(ids) == text

    return faithful


def characters(path: Path) -> set[str]:
    """The characters that the model knows, and the space."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pieces = (model.id_to_piece(index) for index in range(len(model)))
    return {piece for piece in pieces if len(piece) == 1} - {SPACE} | {" "}


def _english_pieces(lines: list[str], count: int) -> list[str]:
    """BPE pieces in the order in which they were learned."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=count,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    learned = proto.ModelProto.FromString(model.getvalue())
    return [piece.piece for piece in learned.pieces if piece.type == NORMAL]


def _model(pieces: list[tuple[str, int]]) -> proto.ModelProto:
    model = proto.ModelProto()
    model.trainer_spec.model_type = BPE
    model.trainer_spec.vocab_size = len(pieces)
    model.trainer_spec.unk_id, model.trainer_spec.bos_id = 0, 1
    model.trainer_spec.eos_id, model.trainer_spec.pad_id = 2, -1
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    for rank, (piece, kind) in enumerate(pieces):
        model.pieces.add(piece=piece, type=kind, score=-float(rank) if kind == NORMAL else 0.0)
    return model
