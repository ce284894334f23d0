"""Small models shared by all tests; nothing here touches the network."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoints import make_checkpoint, make_vad

from sensevoice.checkpoint import Checkpoint, load_checkpoint
from sensevoice.engine import TorchEngine


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> Iterator[None]:
    """Small tensors gain nothing from threads, and test runs side by side would fight over them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> Iterator[None]:
    """A shell that starts the tests in its background has them, and all they start, ignore Ctrl+C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def _no_jobs_in_the_home_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A test that names no folder must neither find the jobs of whoever runs it, nor leave any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SENSEVOICE_JOB_DIR", str(tmp_path_factory.mktemp("jobs")))
        yield


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SenseVoiceSmall of small size, in the official layout; not to be written to."""
    return make_checkpoint(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="session")
def small_vad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in FSMN-VAD's layout that calls whatever is loud speech; not to be written to."""
    return make_vad(tmp_path_factory.mktemp("models") / "vad")


@pytest.fixture(scope="session")
def small_model(small_checkpoint: Path) -> Checkpoint:
    """The small checkpoint, loaded."""
    return load_checkpoint(small_checkpoint)


@pytest.fixture(scope="session")
def small_engine(small_model: Checkpoint) -> TorchEngine:
    """An engine over the small checkpoint, on the CPU."""
    return TorchEngine(small_model, "cpu")


@pytest.fixture(scope="session")
def reference() -> Path:
    """Reference files beside the repository (or where SENSEVOICE_REFERENCE says); skips without them."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "reference"
    folder = Path(os.environ.get("SENSEVOICE_REFERENCE", beside))
    if not folder.is_dir():
        pytest.skip("no reference files here")
    return folder
