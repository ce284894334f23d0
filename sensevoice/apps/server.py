"""The page and the HTTP service composed into one process, for `sensevoice serve` and app_sensevoice.py."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from sensevoice.apps.common import (
    INTERRUPTED,
    MODEL_OPTIONS,
    add_settings_options,
    model_sentence,
    open_transcriber,
    read_settings,
    start_logging,
)
from sensevoice.errors import SenseVoiceError
from sensevoice.strings import DEFAULT_LANG, LANGS, text

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI

    from sensevoice.settings import Settings

log = logging.getLogger(__name__)

OPTIONS = ("host", "port", *MODEL_OPTIONS, "ui", "lang", "language", "max_duration_s", "max_upload_mb")
ANY_ADDRESS = {"0.0.0.0", "::", ""}


def build(settings: Settings) -> tuple[gr.Blocks | None, FastAPI]:
    """Load the model and make the page, if wanted, and the service around it; ModelError if it cannot be loaded."""
    from sensevoice.runtime import check_libraries

    _start_logging(settings)
    check_libraries()
    from sensevoice.apps.api import create_app

    transcriber = open_transcriber(settings)
    log.info(model_sentence(transcriber.info))
    app = create_app(transcriber, settings)
    if not settings.ui:
        return None, app
    from sensevoice.apps.ui import create_page, mount_page

    page = create_page(transcriber, settings)
    return page, mount_page(app, page, settings, _login(settings))


def _login(settings: Settings) -> Callable[[str, str], bool] | None:
    """Who may see the page: whoever knows a key, if there are keys."""
    from sensevoice.apps.api.access import is_known_key

    return (lambda _, password: is_known_key(password, settings.api_keys)) if settings.api_keys else None


def _start_logging(settings: Settings) -> None:
    from sensevoice.apps.api.logs import start_json_logging

    as_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    (start_logging if as_text else start_json_logging)(settings.log_level)


def parse_arguments(arguments: Sequence[str] | None = None) -> Settings:
    """The settings of the environment, with those given on the command line put over them."""
    parser = argparse.ArgumentParser(description="Serve SenseVoice Studio's page and HTTP service.")
    add_settings_options(parser, OPTIONS)
    return read_settings(parser, parser.parse_args(arguments))


def page_url(host: str, port: int) -> str:
    """The address to open on this machine; 0.0.0.0 is for listening, not for opening."""
    host = "127.0.0.1" if host in ANY_ADDRESS else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; 1 if the model cannot be loaded."""
    return run(parse_arguments(arguments))


def run(settings: Settings) -> int:
    """`main`, with the settings at hand."""
    try:
        _, app = build(settings)
    except SenseVoiceError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    serve(app, settings)
    return 0


def serve(app: FastAPI, settings: Settings) -> None:
    """Serve `app` until interrupted, and say where it can be opened once the port is taken."""
    from sensevoice.apps.api.serving import make_config, run_server

    config = make_config(app, settings)
    listener = config.bind_socket()
    listener.listen(config.backlog)  # whoever reads the address may connect at once
    lang = settings.lang if settings.lang in LANGS else DEFAULT_LANG
    print(text("server.open", lang, url=page_url(settings.host, listener.getsockname()[1])), flush=True)
    with suppress(KeyboardInterrupt):  # uvicorn passes it on after it has shut down
        run_server(config, listener)
