"""Where the model comes from: a folder, a hub's cache, a hub, or the starter that the repository carries.

Files are fetched by the hubs' own client libraries, which cache and resume them and show a progress bar.
Nothing that a hub sends is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sensevoice
from sensevoice.errors import (
    ChecksumError,
    HubUnreachableError,
    ModelError,
    ModelNotFoundError,
    OptionError,
)

logger = logging.getLogger(__name__)

STARTER_DIRECTORY = Path(sensevoice.__file__).parent / "starter"
PROBE_TIMEOUT_S = (
    4.0  # start-up may lose 5 s to a hub that does not answer; 1 s is left for importing its client
)

VAD_FILES = ("config.yaml", "configuration.json", "am.mvn", "model.pt")
MODEL_FILES = (*VAD_FILES, "*.bpe.model", "custom_tags.json")
NEEDED_VAD_FILES = ("config.yaml", "am.mvn", "model.pt")
NEEDED_MODEL_FILES = (*NEEDED_VAD_FILES, "*bpe.model")

# SenseVoiceSmall's two large files, the same on both hubs
OFFICIAL_TOKENIZER = "chn_jpn_yue_eng_ko_spectok.bpe.model"
OFFICIAL_SHA256 = {
    "model.pt": "833ca2dcfdf8ec91bd4f31cfac36d6124e0c459074d5e909aec9cabe6204a3ea",
    OFFICIAL_TOKENIZER: "aa87f86064c3730d799ddf7af3c04659151102cba548bce325cf06ba4da4e6a8",
}
OFFICIAL_SIZES = {"model.pt": 936_291_369, OFFICIAL_TOKENIZER: 377_341}  # bytes


@dataclass(frozen=True)
class Hub:
    """One model hub: the official models' ids there, and how its client library is called."""

    name: str
    asr: str
    vad: str
    model_url: str  # answers with JSON if the hub has the model
    default_endpoint: Callable[[], str]
    fetch: Callable[
        [str, Path | None, str | None], tuple[Path, Mapping[str, str]]
    ]  # folder, published SHA-256
    cached_folder: Callable[[str, Path | None], Path | None]


@dataclass(frozen=True)
class FoundModel:
    """The folders to load, and why it is the starter if it is."""

    directory: Path
    vad_directory: Path
    is_starter: bool
    cause: ModelError | None = None

    @property
    def reason(self) -> str:
        """Why the official model is not used; empty if it is, or if another was asked for."""
        return str(self.cause) if self.cause else ""


def find_model(
    model: str | None,
    *,
    hub: str = "modelscope",
    offline: bool = False,
    timeout_s: float = PROBE_TIMEOUT_S,
    cache_dir: Path | None = None,
    endpoint: str | None = None,
) -> FoundModel:
    """The model that was asked for or, if none was, the best one within reach.

    model: a folder, a hub id, or "starter"; if it cannot be had, that is an error (ModelNotFoundError,
    HubUnreachableError, ChecksumError). None: the official model if it is cached or the hub answers
    within `timeout_s` seconds, else the starter.
    offline: look only at what is on this machine; the network is not touched.
    """
    search = Search(find_hub(hub), offline, timeout_s, cache_dir, endpoint)
    if model == "starter":
        return search.starter(None)
    if model:
        return search.with_vad(search.given(model))
    try:
        return search.with_vad(search.official(search.hub.asr))
    except ModelError as error:
        return search.starter(error)


def find_hub(name: str) -> Hub:
    """The hub of that name; OptionError if there is none."""
    if name not in HUBS:
        raise OptionError(f"Unknown hub {name!r}: choose one of {', '.join(HUBS)}.", hub=name)
    return HUBS[name]


def download(
    model_id: str, hub: str = "modelscope", *, cache_dir: Path | None = None, endpoint: str | None = None
) -> Path:
    """Fetch a model into the hub client's cache, or what is missing of it, and return its folder.

    cache_dir, endpoint: the client's own by default (MODELSCOPE_CACHE, HF_HOME, MODELSCOPE_ENDPOINT,
    HF_ENDPOINT). Raises ModelNotFoundError, HubUnreachableError or ChecksumError; a file with the wrong
    checksum is deleted, so that the next attempt fetches it again.
    """
    source = find_hub(hub)
    logger.info("fetching %s from %s", model_id, hub)
    with _translated_errors(source, model_id):
        directory, published = source.fetch(model_id, cache_dir, endpoint)
    pinned = OFFICIAL_SHA256 if model_id == source.asr else {}
    verify(directory, {**published, **pinned})
    if not _is_complete(directory, _needed_files(source, model_id)):
        raise ModelNotFoundError(model_id)
    return directory


def cached(model_id: str, hub: str = "modelscope", *, cache_dir: Path | None = None) -> Path | None:
    """The folder of a model that was fetched before, whole; None otherwise. Touches no network."""
    source = find_hub(hub)
    directory = source.cached_folder(model_id, cache_dir)
    if directory is None or not _is_complete(directory, _needed_files(source, model_id)):
        return None
    if model_id == source.asr and not _has_official_sizes(directory):
        logger.warning("%s is not the official model, although it is cached under its name", directory)
        return None
    return directory


def probe(hub: Hub, model_id: str, timeout_s: float, endpoint: str | None = None) -> None:
    """Ask the hub for a model: HubUnreachableError unless it answers in time, ModelNotFoundError without one.

    A name server or a route that swallows packets ignores socket timeouts, so a thread does the asking
    and is left behind when time is up.
    """
    answers: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    url = (endpoint or hub.default_endpoint()) + hub.model_url.format(id=model_id)
    threading.Thread(target=lambda: answers.put(_ask(url, timeout_s)), daemon=True).start()
    try:
        error = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise HubUnreachableError(hub.name, f"no answer within {timeout_s:g} s") from None
    if getattr(error, "code", None) == 404:
        raise ModelNotFoundError(model_id) from error
    if error is not None:
        raise HubUnreachableError(hub.name, _one_line(error)) from error


def _ask(url: str, timeout_s: float) -> Exception | None:
    """An error, or None for an answer in JSON; a hotel's login page is no answer."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            json.loads(answer.read())
    except Exception as error:
        return error
    return None


def verify(directory: Path, sha256: Mapping[str, str]) -> None:
    """Compare files with their published SHA-256; a wrong one is deleted, and ChecksumError names it."""
    for name, expected in sha256.items():
        path = directory / name
        if not path.is_file():
            continue
        found = file_sha256(path)
        if found != expected:
            path.resolve().unlink()  # the client's cache may hold a link to it
            path.unlink(missing_ok=True)
            raise ChecksumError(str(path), expected, found)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclass
class Search:
    """One look for a model; a hub that once failed to answer is not asked again."""

    hub: Hub
    offline: bool
    timeout_s: float
    cache_dir: Path | None
    endpoint: str | None
    _silence: HubUnreachableError | None = field(default=None, init=False)

    def given(self, model: str) -> Path:
        """The folder that the user named, or that of the hub id."""
        if Path(model).expanduser().is_dir():
            return Path(model).expanduser()
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or model.startswith("."):
            raise ModelNotFoundError(model)
        return cached(model, self.hub.name, cache_dir=self.cache_dir) or self._fetch(model)

    def official(self, model_id: str) -> Path:
        """An official model from either hub's cache, or from the hub."""
        is_vad = model_id == self.hub.vad
        for hub in (self.hub, *(hub for hub in HUBS.values() if hub is not self.hub)):
            directory = cached(hub.vad if is_vad else hub.asr, hub.name, cache_dir=self.cache_dir)
            if directory is not None:
                return directory
        return self._fetch(model_id)

    def with_vad(self, directory: Path) -> FoundModel:
        """Add the VAD beside a model, else the official one, else the starter's."""
        is_starter = directory.resolve() == STARTER_DIRECTORY.resolve()
        if _is_complete(directory / "vad", NEEDED_VAD_FILES):
            return FoundModel(directory, directory / "vad", is_starter)
        try:
            return FoundModel(directory, self.official(self.hub.vad), is_starter)
        except ModelError as error:
            logger.info("the starter's voice activity detection is used: %s", error)
            return FoundModel(directory, STARTER_DIRECTORY / "vad", is_starter)

    def starter(self, cause: ModelError | None) -> FoundModel:
        """The model that the repository carries."""
        if not _is_complete(STARTER_DIRECTORY, NEEDED_MODEL_FILES):
            raise cause or ModelNotFoundError(str(STARTER_DIRECTORY))
        return FoundModel(STARTER_DIRECTORY, STARTER_DIRECTORY / "vad", is_starter=True, cause=cause)

    def _fetch(self, model_id: str) -> Path:
        if self.offline:
            raise HubUnreachableError(self.hub.name, "offline mode is on")
        if self._silence is not None:
            raise self._silence
        try:
            probe(self.hub, model_id, self.timeout_s, self.endpoint)
            return download(model_id, self.hub.name, cache_dir=self.cache_dir, endpoint=self.endpoint)
        except HubUnreachableError as error:
            self._silence = error
            raise


def _needed_files(hub: Hub, model_id: str) -> tuple[str, ...]:
    return NEEDED_VAD_FILES if model_id == hub.vad else NEEDED_MODEL_FILES


def _is_complete(directory: Path, patterns: tuple[str, ...]) -> bool:
    return all(any(path.is_file() for path in directory.glob(pattern)) for pattern in patterns)


def _has_official_sizes(directory: Path) -> bool:
    files = [directory / name for name in OFFICIAL_SIZES]
    return all(file.is_file() and file.stat().st_size == OFFICIAL_SIZES[file.name] for file in files)


def _one_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# What the client libraries raise ------------------------------------------------------------------


@contextmanager
def _translated_errors(hub: Hub, model_id: str) -> Iterator[None]:
    """Give the clients' many errors our three names."""
    try:
        yield
    except Exception as error:
        raise _translated(error, hub, model_id) from error


def _translated(error: Exception, hub: Hub, model_id: str) -> ModelError:
    causes = list(getattr(error, "failed_files", {}).items()) or [(model_id, error)]
    path, cause = next((pair for pair in causes if _hashes_in(pair[1])), causes[0])
    if hashes := _hashes_in(cause):
        return ChecksumError(path, *hashes)
    if any(_status(link) in (401, 403, 404) or "NotExist" in type(link).__name__ for link in _chain(cause)):
        return ModelNotFoundError(model_id)
    return HubUnreachableError(hub.name, _one_line(cause))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> object:
    response = getattr(error, "response", None)
    return getattr(response if response is not None else error, "status_code", None)


def _hashes_in(error: BaseException) -> tuple[str, str] | None:
    """The expected and the found SHA-256 (beginnings) in ModelScope's complaint about a damaged file."""
    match = re.search(r"Hash mismatch.*expected (\w+).*got (\w+)", str(error))
    return (match[1], match[2]) if match else None


# ModelScope ---------------------------------------------------------------------------------------


def _modelscope_endpoint() -> str:
    from modelscope_hub.config import HubConfig

    return str(HubConfig().endpoint)


def _fetch_modelscope(
    model_id: str, cache_dir: Path | None, endpoint: str | None
) -> tuple[Path, Mapping[str, str]]:
    """ModelScope's client itself compares each file with the SHA-256 in the hub's listing."""
    from modelscope_hub.compat import snapshot_download

    directory = snapshot_download(
        model_id,
        cache_dir=str(cache_dir) if cache_dir else None,
        endpoint=endpoint,
        allow_patterns=list(MODEL_FILES),
    )
    return Path(directory), {}


def _modelscope_folder(model_id: str, cache_dir: Path | None) -> Path | None:
    from modelscope_hub.compat import snapshot_download
    from modelscope_hub.errors import CacheNotFound

    try:
        return Path(
            snapshot_download(
                model_id, cache_dir=str(cache_dir) if cache_dir else None, local_files_only=True
            )
        )
    except CacheNotFound:
        return None


# Hugging Face -------------------------------------------------------------------------------------


def _huggingface_endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _fetch_huggingface(
    model_id: str, cache_dir: Path | None, endpoint: str | None
) -> tuple[Path, Mapping[str, str]]:
    """Hugging Face's client compares sizes only, so the hub's SHA-256 of its large files are handed back."""
    from huggingface_hub import HfApi, snapshot_download

    directory = Path(
        snapshot_download(model_id, cache_dir=cache_dir, endpoint=endpoint, allow_patterns=list(MODEL_FILES))
    )
    info = HfApi(endpoint=endpoint).model_info(model_id, revision=directory.name, files_metadata=True)
    return directory, {file.rfilename: file.lfs.sha256 for file in info.siblings or () if file.lfs}


def _huggingface_folder(model_id: str, cache_dir: Path | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                model_id, cache_dir=cache_dir, local_files_only=True, allow_patterns=list(MODEL_FILES)
            )
        )
    except LocalEntryNotFoundError:
        return None


HUBS = {
    hub.name: hub
    for hub in (
        Hub(
            name="modelscope",
            asr="iic/SenseVoiceSmall",
            vad="iic/speech_fsmn_vad_zh-cn-16k-common-pytorch",
            model_url="/api/v1/models/{id}/revisions",
            default_endpoint=_modelscope_endpoint,
            fetch=_fetch_modelscope,
            cached_folder=_modelscope_folder,
        ),
        Hub(
            name="huggingface",
            asr="FunAudioLLM/SenseVoiceSmall",
            vad="funasr/fsmn-vad",
            model_url="/api/models/{id}",
            default_endpoint=_huggingface_endpoint,
            fetch=_fetch_huggingface,
            cached_folder=_huggingface_folder,
        ),
    )
}
