"""A model directory in SenseVoiceSmall's layout: read, checked, and turned into a network.

config.yaml                architecture and frontend
configuration.json         optional: which file is the tokenizer
am.mvn                     CMVN, Kaldi text
*.bpe.model                SentencePiece vocabulary
model.pt                   weights, fp32 or fp16
custom_tags.json           optional: names for the free SPECIAL_TOKEN_n
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import yaml  # type: ignore[import-untyped]
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sensevoice.errors import ModelFileError, ModelNotFoundError
from sensevoice.features import SAMPLE_RATE, Frontend
from sensevoice.hub import HUBS, STARTER_DIRECTORY
from sensevoice.network import NetworkShape, SenseVoiceNetwork
from sensevoice.tags import CUSTOM_TAGS_FILE, TAGS, Tag, TagKind, load_custom_tags

OFFICIAL_SHAPE = NetworkShape()
OFFICIAL_LICENCE = "FunASR Model Open Source License Agreement v1.1"
OFFICIAL_ATTRIBUTION = (
    "SenseVoiceSmall by FunAudioLLM / FunASR, Alibaba Group (https://github.com/FunAudioLLM/SenseVoice), "
    f"under the {OFFICIAL_LICENCE} (https://github.com/modelscope/FunASR/blob/main/MODEL_LICENSE): "
    "whoever uses, copies, modifies or shares the model, or one made from it, names its source and authors "
    "and keeps its name."
)
STARTER_LICENCE = "MIT"
STARTER_ATTRIBUTION = (
    "SenseVoice Studio's starter model, trained by this project on synthetic speech and a little recorded "
    "speech; its sources and their licences are listed in training/README.md and sensevoice/starter/MODEL_CARD.md."
)
_KINDS = {tag.token: tag.kind for tag in TAGS}
_TAG = re.compile(r"<\|.+\|>")
CHECKING_THREADS = 4  # a processor's core checks 1 to 2 GB a second
CHECKED_BYTES = 1 << 20
STATE_WRAPPERS = ("state_dict", "model_state_dict", "model")  # as FunASR's own loader unwraps them


@dataclass(frozen=True)
class ModelInfo:
    """Which model it is, and on what terms it may be used."""

    name: str
    path: Path
    is_starter: bool
    source: str
    licence: str
    parameters: int
    attribution: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that recognition needs of one model directory; the network is on the CPU, in float32."""

    info: ModelInfo
    config: dict[str, Any]
    network: SenseVoiceNetwork
    frontend: Frontend
    vocabulary: Vocabulary
    custom_tags: tuple[Tag, ...] = ()


class Vocabulary:
    """The SentencePiece pieces of one checkpoint, and which of them are tags.

    Tags are found by their spelling, `<|HAPPY|>`, since every checkpoint may number them differently.
    Whatever a checkpoint calls them, its SPECIAL_TOKEN_n are of the kind CUSTOM here.
    """

    blank_id = 0

    def __init__(self, processor: sentencepiece.SentencePieceProcessor) -> None:
        self._processor = processor
        self.size: int = processor.GetPieceSize()
        self._pieces = [str(processor.IdToPiece(id)) for id in range(self.size)]
        special = {piece[2:-2]: id for id, piece in enumerate(self._pieces) if _TAG.fullmatch(piece)}
        self._special_ids = frozenset(special.values())
        self._tag_ids: dict[TagKind, dict[str, int]] = {kind: {} for kind in TagKind}
        for token, id in special.items():
            if token in _KINDS or token.startswith("SPECIAL_TOKEN_"):
                self._tag_ids[_KINDS.get(token, TagKind.CUSTOM)][token] = id
        self._texts = [self._text(id) for id in range(self.size)]
        # SentencePiece decodes a piece in the same way wherever it is, but for bytes, of which several make a letter
        spelled = [id for id, text in enumerate(self._texts) if text]
        self._is_spelled = self.decode(spelled).strip() == "".join(self._texts).strip()

    def _text(self, id: int) -> str:
        if id == self.blank_id or id in self._special_ids or self._processor.IsControl(id):
            return ""
        return self._pieces[id].replace("\u2581", " ")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read a `*.bpe.model`; ModelFileError if it is none."""
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(path.read_bytes())
        except (OSError, RuntimeError) as error:
            raise ModelFileError(str(path), "it is no SentencePiece vocabulary") from error
        if processor.GetPieceSize() == 0:
            raise ModelFileError(str(path), "it is an empty SentencePiece vocabulary")
        return cls(processor)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, tags included, with SentencePiece's spacing (FunASR's `tokenizer.decode`)."""
        return str(self._processor.DecodeIds([int(id) for id in ids]))

    def encode(self, text: str) -> list[int]:
        """Ids of a text (FunASR's `tokenizer.encode`)."""
        return list(self._processor.EncodeAsIds(text))

    def piece(self, id: int) -> str:
        """One piece as it is spelled in the vocabulary: `▁the`, `<|zh|>`; IndexError if there is none."""
        if not 0 <= id < self.size:
            raise IndexError(id)
        return self._pieces[id]

    @property
    def texts(self) -> Sequence[str]:
        """What each piece adds to the text; "" for the blank, the tags and what is never seen."""
        return self._texts

    @property
    def is_spelled(self) -> bool:
        """Whether these texts, joined, are what `decode` makes of any pieces, but for spaces at the ends."""
        return self._is_spelled

    def tag_ids(self, kind: TagKind) -> dict[str, int]:
        """The tags of a kind that this vocabulary has: `{"HAPPY": 25001, ...}`."""
        return dict(self._tag_ids[kind])

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of all `<|...|>` pieces, known tags or not."""
        return self._special_ids


def load_checkpoint(directory: Path) -> Checkpoint:
    """Load a model directory; ModelNotFoundError without one, ModelFileError naming the file at fault."""
    directory = Path(directory)
    if not directory.is_dir():
        raise ModelNotFoundError(str(directory))
    config = read_config(_required(directory / "config.yaml"))
    cmvn, weights = _required(directory / "am.mvn"), _required(directory / "model.pt")
    custom_tags = load_custom_tags(directory / CUSTOM_TAGS_FILE)
    vocabulary = Vocabulary.load(find_tokenizer(directory))
    frontend = Frontend.from_config(config["frontend_conf"], cmvn)
    shape = _network_shape(config, directory / "config.yaml", frontend, vocabulary)
    network = build_network(shape, read_weights(weights), weights)
    info = describe(directory, network)
    return Checkpoint(info, config, network, frontend, vocabulary, custom_tags)


def _required(path: Path) -> Path:
    if not path.is_file():
        raise ModelFileError(str(path), "it is missing")
    return path


def read_config(path: Path) -> dict[str, Any]:
    """Read config.yaml and check that it describes a SenseVoice model of 16 kHz; ModelFileError."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelFileError(str(path), "it is no YAML") from error
    if not isinstance(config, dict):
        raise ModelFileError(str(path), "it is no YAML mapping")
    for key in ("encoder_conf", "frontend_conf"):
        if not isinstance(config.get(key), dict):
            raise ModelFileError(str(path), f"it has no section {key!r}")
    if config.get("model") != "SenseVoiceSmall":
        raise ModelFileError(str(path), f"it describes a {config.get('model')!r}, not a 'SenseVoiceSmall'")
    if config["frontend_conf"].get("fs", SAMPLE_RATE) != SAMPLE_RATE:
        raise ModelFileError(str(path), f"its sampling rate is not {SAMPLE_RATE}")
    return config


def find_tokenizer(directory: Path) -> Path:
    """The file that configuration.json names, or else the one `*.bpe.model`; ModelFileError."""
    named = _named_tokenizer(directory / "configuration.json")
    if named is not None and (directory / named).is_file():
        return directory / named
    found = sorted({*directory.glob("*.bpe.model"), *directory.glob("bpe.model")})
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        reason = f"it does not say which of {names} to use"
        raise ModelFileError(str(directory / "configuration.json"), reason)
    raise ModelFileError(str(directory / (named or "*.bpe.model")), "it is missing")


def _named_tokenizer(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        named = json.loads(path.read_text(encoding="utf-8"))["file_path_metas"]["tokenizer_conf"]["bpemodel"]
    except (KeyError, TypeError):
        return None
    except (OSError, ValueError) as error:
        raise ModelFileError(str(path), "it is no JSON") from error
    return Path(str(named)).name  # a name, never a path that leads out of the directory


def _network_shape(
    config: dict[str, Any], path: Path, frontend: Frontend, vocabulary: Vocabulary
) -> NetworkShape:
    try:
        shape = NetworkShape.from_config(
            config["encoder_conf"],
            input_size=frontend.get_buffer("shift").numel(),
            vocab_size=vocabulary.size,
        )
    except (TypeError, ValueError) as error:
        reason = f"its encoder_conf holds no number where one is needed ({error})"
        raise ModelFileError(str(path), reason) from error
    sizes = [size for name, size in vars(shape).items() if name != "tp_blocks"]
    if min(sizes) < 1 or shape.tp_blocks < 0 or shape.output_size % shape.attention_heads:
        raise ModelFileError(str(path), "its encoder_conf describes no network that can exist")
    return shape


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in `model.pt`, freed of wrappers and of a "module." prefix; ModelFileError.

    Only tensors are ever unpickled (`weights_only`), so that a checkpoint cannot run code.
    """
    try:
        changed = _changed_part(path)
        # mapped, not read: `build_network` makes the one copy that is needed
        mapped = zipfile.is_zipfile(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # damaged bytes lead the unpickler into errors of every kind
        raise ModelFileError(str(path), "it is damaged, or holds more than weights") from error
    if changed:
        raise ModelFileError(str(path), f"it is damaged: the checksum of {changed} is wrong")
    for wrapper in STATE_WRAPPERS:
        state = state[wrapper] if isinstance(state, dict) and wrapper in state else state
    if not isinstance(state, dict):
        raise ModelFileError(str(path), "it holds no state dict")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _changed_part(path: Path) -> str | None:
    """A part of a weight file whose CRC-32 is wrong, which `torch.load` does not look at."""
    if not zipfile.is_zipfile(path):  # written by torch before 1.6, which knew no checksums
        return None
    with ThreadPoolExecutor(CHECKING_THREADS) as pool:
        found = pool.map(partial(_changed_among, path), range(CHECKING_THREADS))
        return next(filter(None, found), None)


def _changed_among(path: Path, share: int) -> str | None:
    with zipfile.ZipFile(path) as parts:
        for name in parts.namelist()[share::CHECKING_THREADS]:
            try:
                with parts.open(name) as part:
                    while part.read(CHECKED_BYTES):
                        pass
            except zipfile.BadZipFile:
                return name
    return None


class _NoInitialisation(TorchFunctionMode):
    """Skip `torch.nn.init`: its values are replaced at once, and on "meta" it imports torch._dynamo (2 s)."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else None
        return func(*args, **(kwargs or {}))


def build_network(shape: NetworkShape, state: dict[str, Tensor], path: Path) -> SenseVoiceNetwork:
    """A network with these weights in float32, for inference; ModelFileError names what does not fit."""
    with torch.device("meta"), _NoInitialisation():
        network = SenseVoiceNetwork(shape)
    wanted = network.state_dict()
    _check_weights(wanted, state, path)
    # a copy, since the file of a model that is in use may be overwritten
    copies = {name: state[name].to(torch.float32, copy=True) for name in wanted}
    network.load_state_dict(copies, assign=True)
    return network.eval().requires_grad_(False)


def _check_weights(wanted: dict[str, Tensor], state: dict[str, Tensor], path: Path) -> None:
    """Keys beyond those wanted are left alone: training writes some that inference does not need."""
    missing = [name for name in wanted if not isinstance(state.get(name), Tensor)]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelFileError(str(path), f"it has no weights {missing[0]}{others}")
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            reason = f"{name} is {list(state[name].shape)}, but config.yaml and the vocabulary ask for"
            raise ModelFileError(str(path), f"{reason} {list(tensor.shape)}")
        if not state[name].is_floating_point() or not state[name].sum(dtype=torch.float32).isfinite():
            raise ModelFileError(str(path), f"{name} holds values that are no finite numbers")


def describe(directory: Path, network: SenseVoiceNetwork) -> ModelInfo:
    """Say which model a directory holds; one of the official shape is SenseVoiceSmall or made from it."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if directory.resolve() == STARTER_DIRECTORY.resolve():
        return ModelInfo(
            "starter", directory, True, "training/", STARTER_LICENCE, parameters, STARTER_ATTRIBUTION
        )
    if network.shape == OFFICIAL_SHAPE:
        source = f"https://modelscope.cn/models/{HUBS['modelscope'].asr}"
        return ModelInfo(
            "SenseVoiceSmall", directory, False, source, OFFICIAL_LICENCE, parameters, OFFICIAL_ATTRIBUTION
        )
    return ModelInfo(directory.resolve().name, directory, False, str(directory), "unknown", parameters)
