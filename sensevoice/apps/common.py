"""What the entry points share: options that stand for settings, logging, and words on stderr."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from sensevoice.options import Precision
from sensevoice.settings import Hub, PageLanguage, Settings, SpokenLanguage
from sensevoice.strings import text

if TYPE_CHECKING:
    from sensevoice.checkpoint import ModelInfo
    from sensevoice.pipeline import Transcriber

CHOICES: dict[str, tuple[str, ...]] = {
    "hub": get_args(Hub),
    "precision": get_args(Precision),
    "lang": get_args(PageLanguage),
    "language": get_args(SpokenLanguage),
}
MODEL_OPTIONS = ("model", "hub", "device", "precision", "offline")
INTERRUPTED = 130  # exit code after Ctrl-C, as shells give it: 128 + SIGINT
LOG_FORMAT = "%(levelname)s %(name)s: %(message)s"


def add_settings_options(parser: argparse._ActionsContainer, names: Iterable[str]) -> None:
    """Give the parser an option for each of these settings: `--max-upload-mb` for `max_upload_mb`."""
    for name in names:
        add_settings_option(parser, name)


def add_settings_option(
    parser: argparse._ActionsContainer,
    name: str,
    *flags: str,
    choices: Iterable[str] | None = None,
    note: str = "",
) -> None:
    """One option for one setting, with what `settings.py` says of it; unset, it leaves the setting alone.

    flags: spellings beside the setting's own, such as `-l`. choices, note: instead of the setting's own.
    """
    field = Settings.model_fields[name]
    kind: dict[str, Any] = {"choices": choices or CHOICES.get(name)}
    if field.annotation is bool:
        kind = {"action": argparse.BooleanOptionalAction}
    elif kind["choices"] is None:
        kind = {"metavar": name.split("_")[-1].upper()}  # MODEL, or the unit: S, MB
    default = "unset" if field.default is None else field.default
    origin = f"[SENSEVOICE_{name.upper()}, default {default}]"
    parser.add_argument(
        *flags, _flag(name), dest=name, default=None, help=f"{note or field.description} {origin}", **kind
    )


def read_settings(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Settings:
    """The environment's settings under the given options; ends with usage (2) if a value cannot be used."""
    values = {name: getattr(arguments, name, None) for name in Settings.model_fields}
    given = {name: value for name, value in values.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        parser.error("; ".join(_fault(fault, given) for fault in error.errors()))


def _fault(fault: Any, given: dict[str, Any]) -> str:
    name = str(fault["loc"][0]).lower().removeprefix("sensevoice_")
    origin = f"argument {_flag(name)}" if name in given else f"environment variable SENSEVOICE_{name.upper()}"
    reason = fault["msg"][:1].lower() + fault["msg"][1:]
    return f"{origin}: {reason}, not {fault['input']!r}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def open_transcriber(settings: Settings) -> Transcriber:
    """The model that the settings ask for, where and how they ask for it; ModelError if it cannot be had."""
    from sensevoice.pipeline import Transcriber  # imports torch, which --help must not wait for

    return Transcriber.load(
        settings.model,
        device=settings.device,
        precision=settings.precision,
        hub=settings.hub,
        offline=settings.offline,
    )


class _TextFormatter(logging.Formatter):
    """A line with the facts that a message carries in `fields` after it, as the JSON log has them."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = getattr(record, "fields", {})
        return " ".join([super().format(record), *(f"{name}={value}" for name, value in fields.items())])


def start_logging(level: str) -> None:
    """Log to stderr: our own messages from `level` on, other libraries' from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_TextFormatter(LOG_FORMAT))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("sensevoice").setLevel(level.upper())


def model_sentence(info: ModelInfo) -> str:
    """Which model is at work, and how to get the official one if it is the starter."""
    return text("server.starter" if info.is_starter else "server.model", "en", model=info.name)


def complain(sentence: str) -> None:
    """Say it on stderr, whatever else is drawn there."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    tqdm.write(f"sensevoice: {sentence}", file=sys.stderr)
