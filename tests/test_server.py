"""`python app_sensevoice.py` and `uvicorn app_sensevoice:api`: settings, addresses and first words."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from uvicorn.importer import import_from_string

from sensevoice.hub import STARTER_DIRECTORY

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import app_sensevoice  # noqa: E402


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "PORT", "MODEL", "DEVICE", "LANG", "OFFLINE"):
        monkeypatch.delenv(f"SENSEVOICE_{name}", raising=False)


def test_it_serves_every_address_on_6006_unless_told_otherwise() -> None:
    settings = app_sensevoice.parse_arguments([])
    assert (settings.host, settings.port, settings.lang) == ("0.0.0.0", 6006, "auto")


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSEVOICE_PORT", "7000")
    monkeypatch.setenv("SENSEVOICE_DEVICE", "cuda:1")
    settings = app_sensevoice.parse_arguments(["--port", "8000", "--lang", "en", "--max-upload-mb", "5"])
    assert (settings.port, settings.device, settings.lang) == (8000, "cuda:1", "en")
    assert settings.max_upload_mb == 5


@pytest.mark.parametrize(
    "arguments", [["--port", "many"], ["--port", "70000"], ["--lang", "fr"], ["--nonsense"]]
)
def test_a_wrong_option_ends_with_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app_sensevoice.parse_arguments(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:6006"),
        ("::", "http://127.0.0.1:6006"),
        ("127.0.0.1", "http://127.0.0.1:6006"),
        ("::1", "http://[::1]:6006"),
        ("gpu-box", "http://gpu-box:6006"),
    ],
)
def test_the_address_that_is_printed_can_be_opened(host: str, url: str) -> None:
    assert app_sensevoice.page_url(host, 6006) == url


def test_a_model_that_is_not_there_is_a_sentence_not_a_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app_sensevoice.main(["--model", str(tmp_path / "nowhere"), "--offline"]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_model_that_was_not_copied_to_its_end_is_a_sentence_not_a_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(STARTER_DIRECTORY, tmp_path / "model")
    os.truncate(tmp_path / "model" / "model.pt", 100_000)
    assert app_sensevoice.main(["--model", str(tmp_path / "model"), "--offline"]) == 1
    assert "model.pt cannot be used: it is damaged" in capsys.readouterr().err


def test_the_module_has_only_the_names_it_promises() -> None:
    with pytest.raises(AttributeError, match="no attribute 'app'"):
        app_sensevoice.__getattr__("app")


@pytest.mark.parametrize("name", ["demo", "api"])
def test_uvicorn_finds_the_app_by_name_and_the_model_is_loaded_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[object] = []
    monkeypatch.setattr(app_sensevoice, "build", lambda settings: built.append(settings) or ("demo", "api"))
    app_sensevoice._built.cache_clear()
    try:
        found = [import_from_string(f"app_sensevoice:{name}") for _ in range(2)]
    finally:
        app_sensevoice._built.cache_clear()
    assert found == [name, name]
    assert len(built) == 1


@pytest.fixture
def small_model_directory(small_checkpoint: Path, small_vad: Path, tmp_path: Path) -> Path:
    """A model with its VAD beside it, as `--model` takes one."""
    directory = tmp_path / "model"
    directory.mkdir()
    for file in small_checkpoint.iterdir():
        (directory / file.name).symlink_to(file)
    (directory / "vad").symlink_to(small_vad)
    return directory


@pytest.fixture
def serve(small_model_directory: Path) -> Iterator[Callable[..., httpx.Client]]:
    """Starts the program itself on any free port, whose address its first line names; a client of it."""
    with ExitStack() as running:
        yield lambda *options: running.enter_context(served(small_model_directory, *options))


@contextmanager
def served(model: Path, *options: str) -> Iterator[httpx.Client]:
    command = [sys.executable, "app_sensevoice.py", "--host", "127.0.0.1", "--port", "0", "--lang", "en"]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--offline", "--model", str(model), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    line = process.stdout.readline()
    assert line.startswith("The page is at http://127.0.0.1:")
    with httpx.Client(base_url=line.split()[4], timeout=30) as client:
        wait_until_up(client)
        yield client
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    process.stdout.close()


def wait_until_up(client: httpx.Client) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            client.get("/health")
            return
        except httpx.ConnectError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_one_process_serves_the_page_and_the_service(serve: Callable[..., httpx.Client]) -> None:
    client = serve()
    assert client.get("/health").json()["status"] == "ok"
    page = client.get("/")
    assert page.headers["content-language"] == "en"
    assert "SenseVoice" in page.text


def test_with_keys_the_page_asks_for_one_of_them(
    serve: Callable[..., httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENSEVOICE_API_KEYS", "one,two")
    client = serve()
    assert client.get("/config").status_code == 401
    assert client.post("/login", data={"username": "me", "password": "three"}).status_code == 400
    assert client.get("/config").status_code == 401
    assert client.post("/login", data={"username": "me", "password": "two"}).status_code == 200
    assert client.get("/config").status_code == 200
    assert client.get("/health").status_code == 200
    assert client.get("/v1/models").status_code == 401


def test_without_the_page_only_the_service_is_served(serve: Callable[..., httpx.Client]) -> None:
    client = serve("--no-ui")
    assert client.get("/").status_code == 404
    assert client.get("/health").json()["status"] == "ok"
