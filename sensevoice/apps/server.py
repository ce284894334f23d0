"""The page and the HTTP service composed into one process, for `sensevoice serve` and app_sensevoice.py."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
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

OPTIONS = ("host", "port", *MODEL_OPTIONS, "lang", "language", "max_duration_s", "max_upload_mb")
BYTES_PER_KB = 1024
ANY_ADDRESS = {"0.0.0.0", "::", ""}


def build(settings: Settings) -> tuple[gr.Blocks, FastAPI]:
    """Load the model and make the page and the service around it; ModelError if it cannot be loaded."""
    from sensevoice.runtime import check_libraries

    start_logging(settings.log_level)
    check_libraries()
    from sensevoice.apps.api import create_app
    from sensevoice.apps.ui import create_page, mount_page

    transcriber = open_transcriber(settings)
    log.info(model_sentence(transcriber.info))
    page = create_page(transcriber, settings)
    return page, mount_page(create_app(transcriber, settings), page, settings)


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
    import uvicorn

    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        # what is a little too large is told so in JSON, instead of being cut off
        ws_max_size=2 * BYTES_PER_KB * settings.stream_max_message_kb,
    )
    listener = config.bind_socket()
    lang = settings.lang if settings.lang in LANGS else DEFAULT_LANG
    print(text("server.open", lang, url=page_url(settings.host, listener.getsockname()[1])), flush=True)
    with suppress(KeyboardInterrupt):  # uvicorn passes it on after it has shut down
        uvicorn.Server(config).run(sockets=[listener])
