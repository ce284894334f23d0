"""Our network in other people's runtimes, on a processor: ONNX Runtime, in fp32 and int8, and sherpa-onnx.

The graph is made of the model folder when it is timed, with the inputs and the metadata that sherpa-onnx
expects of SenseVoice (https://k2-fsa.github.io/sherpa/onnx/sense-voice/). Utterances are computed one by
one, so that nothing is padded.
"""

from __future__ import annotations

import atexit
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn

from sensevoice.audio import SAMPLE_RATE, decode_blocks
from sensevoice.checkpoint import Checkpoint, load_checkpoint
from sensevoice.engine import ANY_LANGUAGE
from sensevoice.kernels import best_tokens
from sensevoice.network import (
    EMOTION_QUERY,
    EVENT_QUERY,
    ITN_QUERIES,
    LANGUAGE_QUERIES,
    SenseVoiceNetwork,
    query_ids,
)
from sensevoice.options import TranscribeOptions
from sensevoice.pipeline import Transcriber
from sensevoice.runners import Utterance
from sensevoice.scheduler import BatchingEngine
from sensevoice.scores import N_QUERY_FRAMES, FrameScores, Query
from sensevoice.tags import TAGS
from sensevoice.utterances import UtteranceCutter
from sensevoice.vad import VoiceActivityDetector

INPUTS = ("x", "x_length", "language", "text_norm")
EXAMPLE_FRAMES = 50
OPSET = 18


class _SherpaInputs(nn.Module):
    """The network with the inputs that sherpa-onnx gives: features, their length, language and ITN query."""

    def __init__(self, network: SenseVoiceNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, x_length: Tensor, language: Tensor, text_norm: Tensor) -> Tensor:
        """[1, frames, input], [1], [1], [1] -> logits [1, 4 + frames, vocabulary]; one utterance has no padding."""
        middle = torch.tensor([EMOTION_QUERY, EVENT_QUERY])
        queries = torch.cat([language, middle, text_norm])[None]
        return self.network(x, queries)  # type: ignore[no-any-return]


@cache
def _folder() -> Path:
    """Removed when the program ends."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(folder.name)


@cache
def exported(model: Path) -> Path:
    """The model folder's network as an ONNX graph with sherpa-onnx's metadata; ImportError if that needs more."""
    onnx, _, _ = map(import_module, ("onnx", "onnxscript", "onnxruntime"))  # before a minute is spent on it
    checkpoint = load_checkpoint(model)
    path = _folder() / "model.onnx"
    _export(checkpoint.network, path)
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, _metadata(checkpoint))
    onnx.save(graph, path)
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say about themselves."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def _export(network: SenseVoiceNetwork, path: Path) -> None:
    features = torch.zeros(1, EXAMPLE_FRAMES, network.shape.input_size)
    numbers = [
        torch.zeros(1, dtype=torch.int32) for _ in INPUTS[1:]
    ]  # the exporter would merge what is the same
    frames = torch.export.Dim("frames", min=2)
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            _SherpaInputs(network).eval(),
            (features, *numbers),
            path,
            input_names=INPUTS,
            output_names=["logits"],
            dynamic_shapes=({1: frames}, None, None, None),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    frontend = checkpoint.frontend
    languages = {f"lang_{name}": str(row) for name, row in LANGUAGE_QUERIES.items()}
    return languages | {
        "model_type": "sense_voice_ctc",
        "vocab_size": str(checkpoint.network.shape.vocab_size),
        "lfr_window_size": str(frontend.lfr_m),
        "lfr_window_shift": str(frontend.lfr_n),
        "normalize_samples": "0",
        "with_itn": str(ITN_QUERIES[True]),
        "without_itn": str(ITN_QUERIES[False]),
        "neg_mean": ",".join(map(str, frontend.shift.tolist())),
        "inv_stddev": ",".join(map(str, frontend.scale.tolist())),
    }


@cache
def quantised(model: Path) -> Path:
    """The same with int8 weights and dynamically quantised inputs in its matrix products."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = exported(model).with_name("model.int8.onnx")
    with _quiet():
        quantize_dynamic(exported(model), path, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)
    return path


class OnnxEngine:
    """An `Engine` whose network runs in ONNX Runtime; features and reading are ours."""

    device = "cpu"

    def __init__(self, checkpoint: Checkpoint, path: Path) -> None:
        from onnxruntime import InferenceSession, SessionOptions

        options = SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._frontend = checkpoint.frontend
        self._tag_ids = np.array(sorted(checkpoint.vocabulary.special_ids), np.int32)
        self.vocabulary, self.info = checkpoint.vocabulary, checkpoint.info
        self.tags = TAGS + checkpoint.custom_tags

    def recognise(
        self, utterances: Sequence[Utterance], query: Query | Sequence[Query] = ANY_LANGUAGE
    ) -> list[FrameScores]:
        """See `Engine`."""
        queries = [query] * len(utterances) if isinstance(query, Query) else query
        return [self._scores(one, asked) for one, asked in zip(utterances, queries, strict=True)]

    @torch.inference_mode()
    def _scores(self, utterance: Utterance, query: Query) -> FrameScores:
        features = self._frontend(utterance)[None].numpy()
        language, _, _, text_norm = query_ids(query.language, query.use_itn)
        numbers = [np.array([n], np.int32) for n in (features.shape[1], language, text_norm)]
        answer = self._session.run(None, dict(zip(INPUTS, [features, *numbers], strict=True)))[0]
        logits = torch.from_numpy(answer[0])
        ids, probabilities, totals = best_tokens(logits)
        tags = logits[:N_QUERY_FRAMES, self._tag_ids] - totals[:N_QUERY_FRAMES, None]
        return FrameScores(ids.numpy(), probabilities.numpy(), tags.numpy(), self._tag_ids)


def _with_graph(graph: Callable[[Path], Path], model: Path, vad: Path) -> Callable[[Any], object]:
    engine = BatchingEngine([OnnxEngine(load_checkpoint(model), graph(model))])
    return Transcriber(engine, VoiceActivityDetector.load(vad)).transcribe


def fp32(model: Path, vad: Path, _: str) -> Callable[[Any], object]:
    """ONNX Runtime for the network, everything else as ours."""
    return _with_graph(exported, model, vad)


def int8(model: Path, vad: Path, _: str) -> Callable[[Any], object]:
    """The same with int8 matrix products."""
    return _with_graph(quantised, model, vad)


def sherpa(model: Path, vad: Path, _: str) -> Callable[[Any], object]:
    """sherpa-onnx's features, runtime and reading of the int8 graph, on the utterances that our VAD finds."""
    from sherpa_onnx import OfflineRecognizer

    tokens = _folder() / "tokens.txt"
    tokens.write_text(_token_table(model), encoding="utf-8")
    recogniser = OfflineRecognizer.from_sense_voice(
        model=str(quantised(model)), tokens=str(tokens), num_threads=torch.get_num_threads(), use_itn=True
    )
    detector = VoiceActivityDetector.load(vad)

    def transcribe(source: Any) -> list[str]:
        return [_heard(recogniser, samples) for samples in _utterances(source, detector)]

    return transcribe


def _token_table(model: Path) -> str:
    pieces = SentencePieceProcessor(model_file=str(next(model.glob("*.bpe.model"))))
    return "".join(f"{pieces.IdToPiece(id)} {id}\n" for id in range(pieces.GetPieceSize()))


def _heard(recogniser: Any, samples: npt.NDArray[np.float32]) -> str:
    stream = recogniser.create_stream()
    stream.accept_waveform(SAMPLE_RATE, samples)
    recogniser.decode_stream(stream)
    return str(stream.result.text)


def _utterances(source: Any, detector: VoiceActivityDetector) -> Iterator[npt.NDArray[np.float32]]:
    cutter = UtteranceCutter(detector, TranscribeOptions())
    for block in decode_blocks(source):
        yield from (samples for _, samples in cutter.add(block))
    yield from (samples for _, samples in cutter.finish())
