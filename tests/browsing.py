"""A server of ours on a free port, and a headless Chromium that may talk to nobody else."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from playwright.sync_api import Browser, Page, Playwright

from sensevoice.apps.api import create_app
from sensevoice.apps.ui import create_page, mount_page
from sensevoice.settings import Settings

CHROMIUM = os.environ.get("SENSEVOICE_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
PATIENCE_MS = 60_000


@contextmanager
def serving(transcriber: Any, settings: Settings) -> Iterator[str]:
    """The page and the service around `transcriber`; the address of the page."""
    page = create_page(transcriber, settings)
    app = mount_page(create_app(transcriber, settings), page, settings)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join(20)


def launch(playwright: Playwright, *flags: str) -> Browser:
    return playwright.chromium.launch(executable_path=CHROMIUM, args=[*CHROMIUM_FLAGS, *flags])


@dataclass
class Visit:
    """An open page, and everything that it asked of anyone but our server."""

    page: Page
    strangers: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def upload(self, path: Path) -> None:
        """Choose a file, and wait until the server has it."""
        with self.page.expect_response(lambda reply: "/upload?" in reply.url):
            self.page.set_input_files('#sv-audio input[type="file"]', path)
        self.page.wait_for_selector("#sv-status :text-matches('点击|press')")

    def start(self) -> None:
        self.page.click("#sv-start")

    def transcribe(self, path: Path) -> str:
        """Upload, start, and read the finished result."""
        self.upload(path)
        self.start()
        return self.finished()

    def finished(self) -> str:
        self.page.wait_for_selector('.sv-status[data-state="done"]', timeout=PATIENCE_MS)
        return self.result()

    def failed(self) -> str:
        self.page.wait_for_selector('.sv-status[data-state="error"]', timeout=PATIENCE_MS)
        return self.status()

    def result(self) -> str:
        return self.page.input_value("#sv-result textarea")

    def status(self) -> str:
        return self.page.inner_text(".sv-status")

    def everything(self) -> str:
        return self.page.inner_text("body")


@contextmanager
def visiting(
    browser: Browser, url: str, *, locale: str = "zh-CN", viewport: dict[str, int] = DESKTOP, **options: Any
) -> Iterator[Visit]:
    """Open the page as a reader with this browser language would; no request may leave 127.0.0.1."""
    context = browser.new_context(locale=locale, viewport=viewport, **options)
    visit = Visit(context.new_page())
    visit.page.set_default_timeout(PATIENCE_MS)
    visit.page.on("request", lambda request: _note_stranger(visit, request.url))
    visit.page.on("pageerror", lambda error: visit.faults.append(str(error)))
    visit.page.goto(url)
    visit.page.wait_for_selector("#sv-start")
    visit.page.wait_for_load_state("networkidle")
    yield visit
    assert visit.strangers == []
    assert visit.faults == []
    context.close()


def _note_stranger(visit: Visit, url: str) -> None:
    if not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")):
        visit.strangers.append(url)


def write_tone(path: Path, seconds: float = 12.5, rate: int = 16_000) -> Path:
    """A wav of a soft tone."""
    samples = 0.2 * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path
