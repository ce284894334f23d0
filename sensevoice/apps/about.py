"""What is at work here: versions, devices, the model that would be used and why, and its terms."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensevoice import __version__
from sensevoice.errors import HubUnreachableError, ModelError, SenseVoiceError
from sensevoice.hub import (
    HUBS,
    PROBE_TIMEOUT_S,
    STARTER_DIRECTORY,
    FoundModel,
    cached,
    find_hub,
    find_model,
    probe,
)
from sensevoice.runtime import installed_versions

if TYPE_CHECKING:
    from sensevoice.checkpoint import ModelInfo
    from sensevoice.settings import Settings

VAD_ATTRIBUTION = (
    "FSMN-VAD by FunASR, Alibaba Group (https://github.com/modelscope/FunASR), "
    "on the same terms as SenseVoiceSmall."
)


def describe_installation(settings: Settings) -> dict[str, Any]:
    """All of it as JSON has it. Nothing is downloaded; a model that cannot be used is `{"error": …}`."""
    return {
        "version": __version__,
        "platform": platform.platform(),
        "versions": installed_versions(),
        "devices": _devices(),
        "device": _or_error(lambda: _chosen_device(settings)),
        "model": _or_error(lambda: _model(settings)),
        "cached": [
            {"hub": hub.name, "model": model, "path": _text(cached(model, hub.name))}
            for hub in HUBS.values()
            for model in (hub.asr, hub.vad)
        ],
    }


def _or_error(describe: Any) -> Any:
    try:
        return describe()
    except SenseVoiceError as error:
        return {"error": str(error)}


def has_error(report: Mapping[str, Any]) -> bool:
    """Whether the model or the device cannot be used."""
    return any(isinstance(part, Mapping) and "error" in part for part in report.values())


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _devices() -> dict[str, str]:
    """What each device is, by the name that `--device` takes."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cpu = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    return {"cpu": cpu, **{f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(count)}}


def _chosen_device(settings: Settings) -> str:
    from sensevoice.engine import choose_device

    return str(choose_device(settings.device))


# Which model --------------------------------------------------------------------------------------


def _model(settings: Settings) -> dict[str, Any]:
    found, reason = which_model(settings)
    info = _loaded(found.directory) if found else _not_here_yet(settings)
    return {
        "name": info.name,
        "reason": reason,
        "parameters": info.parameters or None,
        "path": str(found.directory) if found else None,
        "source": info.source,
        "licence": info.licence,
        "attribution": info.attribution,
        "vad": _vad(found.vad_directory, info) if found else None,
    }


def which_model(settings: Settings) -> tuple[FoundModel | None, str]:
    """The model that `Transcriber.load` would take, and why; None if it would be fetched first."""
    try:
        found = find_model(settings.model, hub=settings.hub, offline=True)
    except HubUnreachableError:
        if settings.offline:
            raise
        found = None
    if found and not found.cause:
        return found, "it was asked for" if settings.model else "it is the official model, and here"
    if found and settings.offline:
        return found, found.reason
    hub = find_hub(settings.hub)
    try:
        probe(hub, settings.model or hub.asr, PROBE_TIMEOUT_S)
    except ModelError as error:
        if found is None:
            raise
        return found, str(error)
    return None, f"{hub.name} has it; it is fetched when first used, or by `sensevoice download`"


def _loaded(directory: Path) -> ModelInfo:
    from sensevoice.checkpoint import load_checkpoint

    return load_checkpoint(directory).info


def _not_here_yet(settings: Settings) -> ModelInfo:
    import torch

    from sensevoice.checkpoint import OFFICIAL_SHAPE, ModelInfo, describe
    from sensevoice.network import SenseVoiceNetwork

    wanted = settings.model or find_hub(settings.hub).asr
    if wanted not in {hub.asr for hub in HUBS.values()}:
        return ModelInfo(wanted, Path(wanted), False, settings.hub, "unknown", 0)
    with torch.device("meta"):
        return describe(Path(wanted), SenseVoiceNetwork(OFFICIAL_SHAPE))


def _vad(directory: Path, model: ModelInfo) -> dict[str, Any]:
    from sensevoice.vad import VoiceActivityDetector

    encoder = VoiceActivityDetector.load(directory).encoder
    licence, attribution = _vad_terms(directory, model)
    return {
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "path": str(directory),
        "licence": licence,
        "attribution": attribution,
    }


def _vad_terms(directory: Path, model: ModelInfo) -> tuple[str, str]:
    """Licence and attribution: the official VAD's, the starter's, or those of the model that it came with."""
    from sensevoice.checkpoint import OFFICIAL_LICENCE, STARTER_ATTRIBUTION, STARTER_LICENCE

    if directory.resolve() == (STARTER_DIRECTORY / "vad").resolve():
        return STARTER_LICENCE, STARTER_ATTRIBUTION
    if directory in {cached(hub.vad, hub.name) for hub in HUBS.values()}:
        return OFFICIAL_LICENCE, VAD_ATTRIBUTION
    return model.licence, model.attribution


# As text ------------------------------------------------------------------------------------------


def render_installation(report: Mapping[str, Any]) -> str:
    """The report as people read it, one fact a line."""
    return "".join(f"{line}\n" for line in _lines(report))


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"SenseVoice Studio {report['version']} on {report['platform']}"
    yield from _table("Versions", report["versions"])
    yield from _table("Devices", report["devices"])
    device = report["device"]
    yield f"  in use: {device}" if isinstance(device, str) else f"  {device['error']}"
    yield from _table("Model", {**report["model"], "vad": None})
    if vad := report["model"].get("vad"):
        yield from _table("Voice activity detection (FSMN-VAD)", vad)
    cache = {f"{row['model']} ({row['hub']})": row["path"] or "not cached" for row in report["cached"]}
    yield from _table("Official models", cache)


def _table(title: str, rows: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield title
    for name, value in rows.items():
        if value not in (None, ""):
            yield f"  {name}: {f'{value:,}' if isinstance(value, int) else value}"
