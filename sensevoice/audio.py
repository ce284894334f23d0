"""Any recording to float32 mono samples at 16 kHz.

    samples = decode("interview.m4a")                    # the whole recording
    for block in decode_blocks(upload, max_duration_s=3600): ...   # in bounded memory

The data flow: bytes -> packets -> frames (PyAV) -> mono -> 16 kHz -> blocks. Only the demuxer and
the decoder see single frames of some 20 ms; everything after them works on blocks of 16,384
samples, since the cost of a call, not of the arithmetic, dominates at 1,024 samples a frame.
What is 16 kHz already, in an array or in a plain mono wav file, is only cut, a minute at a time.
"""

from __future__ import annotations

import ctypes
import io
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.filter import Graph
from av.packet import Packet

from sensevoice.errors import (
    AudioTooLongError,
    EmptyAudioError,
    NoAudioStreamError,
    NoSuchAudioError,
    NotAudioError,
    TruncatedAudioError,
)
from sensevoice.spans import SAMPLE_RATE as SAMPLE_RATE

AudioSource = str | os.PathLike[str] | bytes | BinaryIO | tuple[int, npt.NDArray[Any]] | npt.NDArray[Any]
Samples = npt.NDArray[np.float32]

BLOCK_SAMPLES = 16_384  # 64 KiB of float32: below the size at which malloc asks the kernel for fresh pages
PULL_SAMPLES = 4 * BLOCK_SAMPLES  # each pull ends in an exception, which costs more than a block
MINUTE_SAMPLES = 60 * SAMPLE_RATE
READ_BYTES = 65_536
HEAD_BYTES = 65_536

# A header may claim any rate, and the resampler's filter grows with it.
LOWEST_RATE, HIGHEST_RATE = 1_000, 1_000_000

# Of 16 kHz output: -0.2 dB at 7 kHz, and 75 dB down from 9 kHz on. swresample's own default
# (kaiser_beta=9) costs the same, but passes 9 kHz only 62 dB down and loses 0.4 dB at 7 kHz.
RESAMPLER = f"{SAMPLE_RATE}:out_sample_fmt=flt:filter_size=32:kaiser_beta=7"

# ITU-R BS.775 downmix weights by channel name; rescaled to a sum of one, so that no mix clips.
ITU_WEIGHTS = {
    **dict.fromkeys(("FC",), 1.0),
    **dict.fromkeys(("FL", "FR"), math.sqrt(0.5)),
    **dict.fromkeys(("BL", "BR", "SL", "SR", "BC"), 0.5),
    "LFE": 0.0,
}

DEMUXER_OPTIONS = {
    "protocol_whitelist": "none",  # a playlist that is uploaded must not read other files or the network
    "max_size": "8192",  # bytes in a packet of PCM; larger ones cost fresh pages, smaller ones more calls
}

# 8 KiB are enough to tell what it is; by default four seconds of a wav would pass before its first sample, and a
# search of all of its first 5 MB for the frames of other codings, which costs more than to read it
BRIEF_DEMUXER_OPTIONS = {**DEMUXER_OPTIONS, "probesize": "8192"}

TRUNCATION_SLACK_S = 0.5  # encoder delay, edit lists and rounding stay well below it
TRUNCATION_SLACK = 0.01
MAX_DEMUXER_FAILURES = 64  # in a row; a damaged container may fail for ever without moving on

# Containers whose header states the length of the sound. The others only allow an estimate from
# file size and bit rate (adts, mp3 without a Xing tag, mpegts) or know just what is left (ogg).
STATING_FORMATS = {"wav", "w64", "aiff", "caf", "au", "flac", "mp3", "mov", "matroska"}
PLAIN_CODINGS: dict[str, np.dtype[Any]] = {"pcm_s16le": np.dtype("<i2"), "pcm_f32le": np.dtype("<f4")}
PLAIN_FORMS = {(1, 1, SAMPLE_RATE), (3, 1, SAMPLE_RATE)}  # coding (integers, floats), channels, sampling rate
WAV_PLACEHOLDER_BYTES = 0x7FFF_0000  # recorders that write to a pipe claim about 2 GiB or 4 GiB

av.logging.set_level(None)

# A header of a hundred bytes may ask for gigabytes, which FFmpeg then fills with zeros. The longest index that is
# needed, that of 12 hours of video, takes 70 MB.
LARGEST_ALLOCATION_BYTES = 128 * 2**20
with suppress(OSError, AttributeError):  # where FFmpeg's functions cannot be reached, its own limit is 2 GB
    ctypes.CDLL(av.logging.__file__).av_max_alloc(ctypes.c_size_t(LARGEST_ALLOCATION_BYTES))


def decode(source: AudioSource, *, max_duration_s: float = math.inf) -> Samples:
    """Decode a recording: `[samples]`, float32, mono, 16 kHz, within [-1, 1].

    The source is a path, the bytes of a file, an open binary file (read from its start), `(rate, samples)`
    with int16, int32, uint8 or float samples `[n]` or `[n, channels]`, or float32 mono samples at 16 kHz.
    Raises an AudioError for what is no readable, whole recording of at most `max_duration_s` seconds.
    """
    pcm = bytearray()  # grows in place, so that the peak is not twice the recording
    for block in decode_blocks(source, max_duration_s=max_duration_s):
        pcm.extend(block.data)
    return np.frombuffer(pcm, np.float32)


def decode_blocks(
    source: AudioSource,
    *,
    max_duration_s: float = math.inf,
    live: bool = False,
    on_length: Callable[[float], None] | None = None,
) -> Iterator[Samples]:
    """The samples that `decode` returns, in blocks of at most a minute and in bounded memory.

    A block may be a part of the array that is the source: it is not to be written to.
    A fault that shows only at the end of the recording is raised after the last block. With `live`, for a
    binary file that is still being written, each block comes as soon as its bytes have been read.
    `on_length` is told before the first block how many seconds there seem to be, if anything says so.
    """
    name = source_name(source)
    length = _Length(name, max_duration_s, on_length or (lambda _: None))
    is_array = isinstance(source, (tuple, np.ndarray))
    blocks = _array_blocks(source, length) if is_array else _file_blocks(source, length, live)  # type: ignore[arg-type]
    heard = 0
    for block in blocks:
        heard += len(block)
        length.check(heard / SAMPLE_RATE)
        yield block
    if not heard:
        raise EmptyAudioError(name)


def decode_pcm(chunks: Iterable[bytes], rate: int = SAMPLE_RATE, channels: int = 1) -> Iterator[Samples]:
    """Bare 16-bit little-endian samples, interleaved, to float32 mono at 16 kHz, as they come.

    A chunk may end in the middle of a sample. Raises NotAudioError if the rate is out of bounds.
    """
    name = "the recording"
    _check_rate(rate, name)
    pcm = _whole_samples(chunks, np.dtype("<i2"), channels)
    blocks = (_mono(samples, float(2**15)) for samples in pcm)
    if rate == SAMPLE_RATE:
        yield from blocks
    else:
        yield from _resampled((_frame(block, rate) for block in blocks), name, live=True)


def _whole_samples(
    chunks: Iterable[bytes], dtype: np.dtype[Any], channels: int
) -> Iterator[npt.NDArray[Any]]:
    """[n, channels] each; what a chunk has too much leads the next."""
    size, rest = dtype.itemsize * channels, b""
    for chunk in chunks:
        pcm = rest + chunk
        whole = len(pcm) - len(pcm) % size
        rest = pcm[whole:]
        if whole:
            yield np.frombuffer(pcm, dtype, whole // dtype.itemsize).reshape(-1, channels)


def source_name(source: AudioSource) -> str:
    """What to call the source in a sentence: the file's name, or "the recording"."""
    if isinstance(source, (str, os.PathLike)):
        return Path(source).name or str(source)
    name = getattr(source, "name", None)
    return Path(name).name if isinstance(name, str) and name else "the recording"


class WatchedFile:
    """A file that ends for the decoder when `check` raises; nameless, since a spooled name says nothing to anyone."""

    def __init__(self, file: BinaryIO, check: Callable[[], None]) -> None:
        self._file, self._check = file, check
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        """Read on, unless the work is to end."""
        self._check()
        return self._file.read(size)


@dataclass(frozen=True)
class _Length:
    """How long a recording may be, and who wants to know how long it is."""

    name: str
    limit_s: float
    tell: Callable[[float], None]

    def check(self, duration_s: float) -> None:
        if duration_s > self.limit_s:
            raise AudioTooLongError(self.name, self.limit_s)


def _clean(block: Samples) -> Samples:
    """Within [-1, 1] and finite: lossy codecs overshoot, and float files may hold NaN."""
    if block.min() >= -1.0 and block.max() <= 1.0:  # false with NaN
        return block
    return np.clip(np.nan_to_num(block, nan=0.0), -1.0, 1.0)


# ---------------------------------------------------------------- arrays


def _array_blocks(
    source: tuple[int, npt.NDArray[Any]] | npt.NDArray[Any], length: _Length
) -> Iterator[Samples]:
    rate, samples = source if isinstance(source, tuple) else (SAMPLE_RATE, source)
    samples = np.asarray(samples)
    _check_rate(rate, length.name)
    if samples.ndim not in (1, 2) or 0 in samples.shape[1:]:
        raise NotAudioError(length.name, f"an array of shape {samples.shape}")
    scale = _full_scale(samples.dtype, length.name)
    length.check(len(samples) / rate)
    length.tell(len(samples) / rate)
    step = MINUTE_SAMPLES if rate == SAMPLE_RATE else BLOCK_SAMPLES
    parts = (samples[i : i + step] for i in range(0, len(samples), step))
    if rate == SAMPLE_RATE:
        return (_clean_mono(part, scale) for part in parts)
    return _resampled((_frame(_mono(part, scale), rate) for part in parts), length.name)


def _full_scale(dtype: np.dtype[Any], name: str) -> float:
    if dtype.kind == "f":
        return 1.0
    if dtype in (np.int16, np.int32, np.uint8):
        return float(2 ** (8 * dtype.itemsize - 1))
    raise NotAudioError(name, f"an array of {dtype}")


def _mono(samples: npt.NDArray[Any], scale: float) -> Samples:
    values = np.ascontiguousarray(samples, np.float32)  # [n] or [n, channels]; integers become a copy
    if samples.dtype == np.uint8:
        values -= 128
    if scale != 1.0:
        values *= np.float32(1 / scale)
    if values.ndim == 1 or values.shape[1] == 1:
        return values.reshape(-1)
    mono: Samples = values.mean(axis=1, dtype=np.float32)
    return mono


def _clean_mono(samples: npt.NDArray[Any], scale: float) -> Samples:
    mono = _mono(samples, scale)
    return _clean(mono) if samples.dtype.kind == "f" else mono  # integers cannot be out of bounds


def _frame(block: Samples, rate: int) -> AudioFrame:
    frame = AudioFrame.from_ndarray(block[None], format="flt", layout="mono")
    frame.sample_rate = rate
    return frame


def _check_rate(rate: int, name: str) -> None:
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise NotAudioError(name, f"a sampling rate of {rate} Hz")


# ---------------------------------------------------------------- files


def _file_blocks(
    source: str | os.PathLike[str] | bytes | BinaryIO, length: _Length, live: bool = False
) -> Iterator[Samples]:
    with _opened(source, length.name) as file:
        head = _head(file, length.name)
        with _container(file, head, length.name, live) as container:
            stream = _sound_track(container, length.name)
            declared_s = _declared_s(container, stream, head)
            length.check(declared_s or 0.0)
            length.tell(declared_s or _guessed_s(container, stream))
            plain = None if live else _plain_wav(file, container, head)
            if plain:
                yield from _wav_blocks(file, plain, PLAIN_CODINGS[stream.codec_context.name], length.name)
                return
            tally = _Tally(stream)
            yield from _resampled(_frames(container, tally), length.name, live)
            tally.check(length.name, declared_s)


@contextmanager
def _opened(source: str | os.PathLike[str] | bytes | BinaryIO, name: str) -> Iterator[BinaryIO]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source)
    elif not isinstance(source, (str, os.PathLike)):
        yield source
    else:
        with _open_path(source, name) as file:
            yield file


def _open_path(path: str | os.PathLike[str], name: str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except (FileNotFoundError, ValueError) as error:  # ValueError: a NUL in the path
        raise NoSuchAudioError(os.fspath(path)) from error
    except OSError as error:
        raise NotAudioError(name, error.strerror or "") from error


def _head(file: BinaryIO, name: str) -> bytes:
    """The first bytes after an ID3 tag; none of what cannot be read twice."""
    if not file.seekable():
        return b""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if not head:
        raise EmptyAudioError(name)
    if head.startswith(b"ID3") and len(head) >= 10:
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        file.seek(10 + size)
        head = file.read(HEAD_BYTES)
    file.seek(0)
    return head


class _Nameless:
    """A file without its name: the extension may be wrong, and would mislead the demuxers' guess."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell, self.seekable = file.read, file.seek, file.tell, file.seekable


@contextmanager
def _container(file: BinaryIO, head: bytes, name: str, live: bool) -> Iterator[InputContainer]:
    data = _wav_data(head)
    brief = live or (data is not None and data.form in PLAIN_FORMS)
    options = BRIEF_DEMUXER_OPTIONS if brief else DEMUXER_OPTIONS
    try:
        # Tags in GBK or Shift-JIS are common, and no reason to refuse the sound.
        container = av.open(
            _Nameless(file), "r", options=options, metadata_errors="replace", buffer_size=READ_BYTES
        )
    except av.FFmpegError as error:
        is_mp4 = head[4:8] == b"ftyp"
        reason = "its index is missing: it was probably not copied or recorded to the end" if is_mp4 else ""
        raise NotAudioError(name, reason) from error
    with container:
        yield container


def _sound_track(container: InputContainer, name: str) -> AudioStream:
    stream = container.streams.best("audio")
    if not isinstance(stream, AudioStream):
        raise NoAudioStreamError(name) if container.streams.video else NotAudioError(name)
    if stream.codec_context is None:
        raise NotAudioError(name, "its sound is in an unknown coding")
    stream.codec_context.thread_count = 1  # threads gain nothing here, and cost a server its other requests
    return stream


def _packets(container: InputContainer, stream: AudioStream) -> Iterator[Packet[AudioStream]]:
    """Packets up to the end of the file, reading on after damaged places."""
    failures = 0
    while failures < MAX_DEMUXER_FAILURES:
        try:
            for packet in container.demux(stream):
                failures = 0
                yield packet
            return
        except (av.FFmpegError, IndexError):  # IndexError: PyAV's, of a stream that begins in the middle
            failures += 1


class _Tally:
    """How much of a stream could be decoded."""

    def __init__(self, stream: AudioStream) -> None:
        self.stream = stream
        self.decoded = self.failed = 0
        self.end: int | None = None  # of the last good packet, in the stream's time base

    def note(self, packet: Packet[AudioStream]) -> None:
        self.decoded += 1
        if packet.pts is not None:
            self.end = packet.pts + (packet.duration or 0)

    def check(self, name: str, declared_s: float | None) -> None:
        if self.failed >= max(self.decoded, 1):
            raise NotAudioError(name, "most of it is damaged")
        if declared_s is None:
            return
        end_s = 0.0
        if self.end is not None:
            end_s = float((self.end - (self.stream.start_time or 0)) * (self.stream.time_base or 0))
        if declared_s - end_s > TRUNCATION_SLACK_S + TRUNCATION_SLACK * declared_s:
            raise TruncatedAudioError(name, end_s, declared_s)


def _frames(container: InputContainer, tally: _Tally) -> Iterator[AudioFrame]:
    for packet in _packets(container, tally.stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            tally.failed += 1
            continue
        tally.note(packet)
        yield from frames


# ---------------------------------------------------------------- declared length


def _declared_s(container: InputContainer, stream: AudioStream, head: bytes) -> float | None:
    """The length that the header states, in seconds; None where it states none or only allows a guess."""
    kind = container.format.name.split(",")[0]
    if not head:
        return None
    if kind == "matroska":
        return _matroska_s(container, stream, head)
    if kind == "wav" and head.startswith(b"RIFF"):
        return _wav_s(stream, head)
    if kind == "mp3" and not _has_frame_count(head):
        return None
    if kind == "mov" and b"mvex" in head:  # fragmented: the index counts the first fragment at most
        return None
    if kind not in STATING_FORMATS or not stream.duration or not stream.time_base:
        return None
    return float(stream.duration * stream.time_base)


def _guessed_s(container: InputContainer, stream: AudioStream) -> float:
    """What libavformat makes of the file's size and bit rate, its last page and the like; 0.0 if nothing."""
    if stream.duration and stream.time_base:
        return max(0.0, float(stream.duration * stream.time_base))
    return max(0.0, (container.duration or 0) / av.time_base)


def _wav_s(stream: AudioStream, head: bytes) -> float | None:
    """From the size of the data chunk: libavformat shortens the duration to what the file holds.

    The header's bytes a second are not to be trusted, some writers leave them wrong; its block size is.
    """
    coding, data = stream.codec_context, _wav_data(head)
    if data is None or not coding.name.startswith("pcm_"):
        return None
    return float(data.size / data.block_bytes / coding.sample_rate)


@dataclass(frozen=True)
class _WavData:
    """Where a wav file's header says that the samples are, in bytes."""

    start: int
    size: int
    block_bytes: int  # a sample of every channel
    form: tuple[int, int, int]  # as in PLAIN_FORMS

    @property
    def end(self) -> int:
        return self.start + self.size


def _wav_data(head: bytes) -> _WavData | None:
    """None if the header does not say it, or only that it was written before the samples."""
    at, size, block_bytes, form = 12, 0, 0, (0, 0, 0)
    while at + 8 <= len(head):
        kind, size = struct.unpack_from("<4sI", head, at)
        if kind == b"data":
            break
        if kind == b"fmt " and at + 22 <= len(head):
            tag, channels, rate, _, block_bytes = struct.unpack_from("<HHIIH", head, at + 8)
            form = tag, channels, rate
        at += 8 + size + size % 2
    else:
        return None
    if not block_bytes or size >= WAV_PLACEHOLDER_BYTES:
        return None
    return _WavData(at + 8, size, block_bytes, form)


def _has_frame_count(mp3_head: bytes) -> bool:
    for tag in (b"Xing", b"Info"):
        at = mp3_head.find(tag, 0, 4096)
        if at >= 0:
            return mp3_head[at + 7 : at + 8] > b"" and mp3_head[at + 7] & 1 == 1
    return mp3_head.find(b"VBRI", 0, 4096) >= 0


def _matroska_s(container: InputContainer, stream: AudioStream, head: bytes) -> float | None:
    """Browsers record without a length; and in a video, the file's length need not be the sound's."""
    tag = stream.metadata.get("DURATION", "")
    try:
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        pass
    states_length = b"\x44\x89\x84" in head or b"\x44\x89\x88" in head  # the Duration element
    is_sound_only = len(container.streams) == len(container.streams.audio) == 1
    if not (states_length and is_sound_only and container.duration):
        return None
    return container.duration / av.time_base


# ---------------------------------------------------------------- plain wav files


def _plain_wav(file: BinaryIO, container: InputContainer, head: bytes) -> _WavData | None:
    """Where the samples are, if they are whole, of 16 kHz, mono, and all that FFmpeg would find in the file."""
    coding, data = container.streams.audio[0].codec_context, _wav_data(head)
    dtype = PLAIN_CODINGS.get(coding.name)
    if data is None or dtype is None or dtype.itemsize != data.block_bytes:
        return None
    if (container.format.name, coding.sample_rate, coding.channels) != ("wav", SAMPLE_RATE, 1):
        return None
    file.seek(0, os.SEEK_END)
    rest = file.tell() - data.end
    if not data.size or not 0 <= rest <= HEAD_BYTES or not head.startswith(b"RIFF"):
        return None
    file.seek(data.end)
    return None if rest and b"data" in file.read(rest) else data


def _wav_blocks(file: BinaryIO, data: _WavData, dtype: np.dtype[Any], name: str) -> Iterator[Samples]:
    """The samples as they are in the file; in FFmpeg's packets they would cost ten times as much."""
    scale = _full_scale(dtype, name)
    for samples in _whole_samples(_bytes_of(file, data, name), dtype, 1):
        yield _clean_mono(samples, scale)


def _bytes_of(file: BinaryIO, data: _WavData, name: str) -> Iterator[bytes]:
    file.seek(data.start)
    left = data.size
    while chunk := file.read(min(left, MINUTE_SAMPLES * data.block_bytes)):
        yield chunk
        left -= len(chunk)
    if left:  # somebody has just shortened the file
        bytes_per_s = data.block_bytes * SAMPLE_RATE
        raise TruncatedAudioError(name, (data.size - left) / bytes_per_s, data.size / bytes_per_s)


# ---------------------------------------------------------------- to mono, to 16 kHz


def _resampled(frames: Iterable[AudioFrame], name: str, live: bool = False) -> Iterator[Samples]:
    """Blocks of 16 kHz mono; a stream that changes its rate or channels midway goes on in a new graph."""
    pull_samples = 1 if live else PULL_SAMPLES
    graph: _MonoGraph | None = None
    waiting = 0
    for frame in frames:
        if graph is None or not graph.push(frame):
            if graph is not None:
                yield from graph.finish()
            graph = _MonoGraph(frame, name, live)
            graph.push(frame)
        waiting += frame.samples
        if waiting >= pull_samples:
            yield from graph.blocks()
            waiting = 0
    if graph is not None:
        yield from graph.finish()


class _MonoGraph:
    """libavfilter: collect frames of one shape into blocks, mix them to mono, resample them to 16 kHz.

    With `live`, frames are not collected.
    """

    def __init__(self, frame: AudioFrame, name: str, live: bool = False) -> None:
        _check_rate(frame.sample_rate, name)
        try:
            self._build(frame, [] if live else [("asetnsamples", f"n={BLOCK_SAMPLES}:p=0")])
        except av.FFmpegError as error:
            raise NotAudioError(name, f"{frame.layout.nb_channels} channels") from error

    def _build(self, frame: AudioFrame, collect: list[tuple[str, str]]) -> None:
        graph = Graph()
        graph.threads = 1
        nodes = [
            graph.add_abuffer(
                sample_rate=frame.sample_rate,
                format=frame.format.name,
                layout=frame.layout.name,
                time_base=Fraction(1, frame.sample_rate),
            ),
            *(
                graph.add(name, args)
                for name, args in [*collect, *_mixer(frame.layout), ("aresample", RESAMPLER), *collect]
            ),
            graph.add("abuffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        self.graph, self.source, self.sink = graph, nodes[0], nodes[-1]

    def push(self, frame: AudioFrame) -> bool:
        """Take a frame, or refuse it if its format, rate or channels differ."""
        try:
            self.source.push(frame)
        except (av.error.ArgumentError, ValueError):
            return False
        return True

    def blocks(self) -> Iterator[Samples]:
        while True:
            try:
                frame = self.sink.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(frame, AudioFrame)
            yield _clean(np.frombuffer(memoryview(frame.planes[0]), np.float32, frame.samples))

    def finish(self) -> Iterator[Samples]:
        self.source.push(None)
        yield from self.blocks()


def _mixer(layout: AudioLayout) -> list[tuple[str, str]]:
    """Nothing for mono; else in float, since `pan` would round the mix of 16-bit samples to 16 bits."""
    return [] if layout.nb_channels == 1 else [("aformat", "sample_fmts=fltp"), ("pan", mixing(layout))]


def mixing(layout: AudioLayout) -> str:
    """The `pan` filter's mix to mono: ITU weights where every channel's place is known, else the average."""
    names = [channel.name for channel in layout.channels]
    placed = len(names) > 2 and all(name in ITU_WEIGHTS for name in names)
    weights = [ITU_WEIGHTS[name] if placed else 1.0 for name in names]
    total = sum(weights)
    return "mono|c0=" + "+".join(f"{weight / total:.9f}*c{i}" for i, weight in enumerate(weights))
