"""The service on a free port of 127.0.0.1, and a transcriber that works until it is told to stop."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fakes import FakeTranscriber

from sensevoice.apps.api import create_app
from sensevoice.apps.api.serving import make_config
from sensevoice.settings import Settings

PATIENCE_S = 20.0


@contextmanager
def running(transcriber: Any, settings: Settings) -> Iterator[str]:
    """The address of a server around `transcriber`."""
    with serving(create_app(transcriber, settings), settings) as url:
        yield url


@contextmanager
def serving(app: Any, settings: Settings) -> Iterator[str]:
    """The address of a server of `app`."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    server = uvicorn.Server(make_config(app, settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    eventually(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        listener.close()


def eventually(holds: Callable[[], object]) -> None:
    """Wait until `holds()` is true; fail if it never is."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def settings_in(folder: Path, **options: Any) -> Settings:
    """Settings that keep everything in `folder`."""
    return Settings(**{"spool_dir": folder / "spool", "job_dir": folder / "jobs", **options})


def left_in_spool(folder: Path) -> list[Path]:
    """Uploads that `settings_in(folder)` has in its spool."""
    return list((folder / "spool").glob("*"))


class BusyTranscriber(FakeTranscriber):
    """Works, with reports of progress, until `release` is set; counts who is at work and who was stopped."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.release = threading.Event()
        self.stopped: list[str] = []
        self.working = 0
        self._lock = threading.Lock()

    def transcribe(self, source: Any, options: Any = None, on_progress: Any = None) -> Any:
        self._count(1)
        try:
            while not self.release.wait(0.01):
                self._report(on_progress, self.segments[:1])
            return super().transcribe(source, options, on_progress)
        except Exception as error:
            self.stopped.append(type(error).__name__)
            raise
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self.working += change
