"""What is installed here, and whether it works; how its threads share the processor."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import os
import platform
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress

BACKGROUND_NICENESS = 10
logger = logging.getLogger(__name__)

PACKAGES = (
    *("torch", "torchaudio", "numpy", "av", "sentencepiece", "gradio", "fastapi"),
    *("modelscope", "huggingface_hub", "funasr", "kaldi-native-fbank"),
)


def installed_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Python's version and those of the packages that are installed, by name."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def broken_torchaudio() -> str | None:
    """Why torchaudio, though installed, cannot be imported; None if it can, or is absent.

    Nothing here needs torchaudio, but libraries that import it "if present" fall over a broken one:
    no torchaudio release matches every torch. It is hidden from them for the life of the process.
    """
    if importlib.util.find_spec("torchaudio") is None:
        return None
    try:
        importlib.import_module("torchaudio")
    except Exception as error:  # RuntimeError, OSError, ImportError, AttributeError: all have been seen
        _hide("torchaudio")
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return None


def _hide(package: str) -> None:
    """Make every later import of the package raise ModuleNotFoundError, as if it were absent."""
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]
    sys.modules[package] = None  # type: ignore[assignment]


def check_libraries() -> None:
    """Warn, one line each, of installed libraries that do not work; called once by the entry points."""
    reason = broken_torchaudio()
    if reason is not None:
        versions = installed_versions(("torch", "torchaudio"))
        logger.warning(
            "torchaudio %s does not work with torch %s and is ignored; nothing here needs it (%s)",
            versions.get("torchaudio", "(unknown version)"),
            versions.get("torch", "(unknown version)"),
            reason,
        )


def stand_back(least: int = BACKGROUND_NICENESS) -> None:
    """Let the threads that answer clients go before this one, and before those that it will start.

    On busy cores the event loop would otherwise wait for its turn as long as any worker does. Niceness is each
    thread's own on Linux; elsewhere nothing is done.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), max(niceness(), least))


def niceness() -> int:
    """How far this thread stands back."""
    if sys.platform == "linux":
        with suppress(OSError):
            return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    return 0
