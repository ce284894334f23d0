"""SenseVoice Studio's server: the page at `/` and the HTTP service beside it, in one process.

    python app_sensevoice.py --port 6006
    uvicorn app_sensevoice:api --port 8000

`demo` (the page) and `api` (the service with the page mounted on it) are built on first use, since
building them loads the model. Options given here win over `SENSEVOICE_*` variables.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, get_args

from sensevoice.errors import SenseVoiceError
from sensevoice.settings import Hub, PageLanguage, Settings, SpokenLanguage
from sensevoice.strings import DEFAULT_LANG, LANGS, text

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI

    from sensevoice.checkpoint import ModelInfo

    demo: gr.Blocks
    api: FastAPI

log = logging.getLogger("sensevoice.server")

ANY_ADDRESS = {"0.0.0.0", "::", ""}


def build(settings: Settings) -> tuple[gr.Blocks, FastAPI]:
    """Load the model and make the page and the service around it; ModelError if it cannot be loaded."""
    from sensevoice.apps.api import create_app
    from sensevoice.apps.ui import create_page, mount_page
    from sensevoice.pipeline import Transcriber

    transcriber = Transcriber.load(
        settings.model, device=settings.device, hub=settings.hub, offline=settings.offline
    )
    log.info(_which_model(transcriber.info))
    page = create_page(transcriber, settings)
    return page, mount_page(create_app(transcriber, settings), page, settings)


def _which_model(info: ModelInfo) -> str:
    return text("server.starter" if info.is_starter else "server.model", "en", model=info.name)


@cache
def _built() -> dict[str, Any]:
    return dict(zip(("demo", "api"), build(parse_arguments([])), strict=True))


def __getattr__(name: str) -> Any:
    if name in ("demo", "api"):
        return _built()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def parse_arguments(arguments: Sequence[str] | None = None) -> Settings:
    """The settings of the environment, with those given on the command line put over them."""
    parser = argparse.ArgumentParser(description="Serve SenseVoice Studio's page and HTTP service.")
    for name, choices in _OPTIONS.items():
        field = Settings.model_fields[name]
        note = f"{field.description} [SENSEVOICE_{name.upper()}, default {field.default}]"
        parser.add_argument(f"--{name.replace('_', '-')}", choices=choices, default=None, help=note)
    parser.add_argument("--offline", action="store_true", default=None, help="Never touch the network.")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    try:
        return Settings(**given)
    except ValueError as error:
        parser.error(str(error))


_OPTIONS: dict[str, tuple[str, ...] | None] = {
    "host": None,
    "port": None,
    "model": None,
    "hub": get_args(Hub),
    "device": None,
    "lang": get_args(PageLanguage),
    "language": get_args(SpokenLanguage),
    "max_duration_s": None,
    "max_upload_mb": None,
}


def page_url(host: str, port: int) -> str:
    """The address to open on this machine; 0.0.0.0 is for listening, not for opening."""
    host = "127.0.0.1" if host in ANY_ADDRESS else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; 1 if the model cannot be loaded."""
    settings = parse_arguments(arguments)
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    try:
        _, app = build(settings)
    except SenseVoiceError as error:
        print(error, file=sys.stderr)
        return 1
    serve(app, settings)
    return 0


def serve(app: FastAPI, settings: Settings) -> None:
    """Serve `app` until interrupted, and say where it can be opened once the port is taken."""
    import uvicorn

    config = uvicorn.Config(app, host=settings.host, port=settings.port, log_level=settings.log_level)
    listener = config.bind_socket()
    lang = settings.lang if settings.lang in LANGS else DEFAULT_LANG
    print(text("server.open", lang, url=page_url(settings.host, listener.getsockname()[1])), flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    raise SystemExit(main())
