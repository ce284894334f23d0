"""The README stays true: its commands and its code are run, its tables are compared with the program."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from sensevoice.apps import server
from sensevoice.exporters import EXPORTERS
from sensevoice.options import SPOKEN_LANGUAGES
from sensevoice.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCK = re.compile(r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"")
ADDRESS = "http://127.0.0.1:6006"
PATIENCE_S = 120


@dataclass(frozen=True)
class Block:
    """One fenced block, and the comment above it that says whether a test runs it."""

    note: str
    language: str
    code: str


BLOCKS = [Block(found["note"] or "", found["language"], found["code"]) for found in BLOCK.finditer(README)]
TESTED = {block.note.removeprefix("tested: "): block for block in BLOCKS if block.note.startswith("tested: ")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader would be: a folder with the repository's example clips."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A reader's shell after `pip install .`, on a machine without a hub and without cached models."""
    home = tmp_path_factory.mktemp("home")
    command = home / "bin" / "sensevoice"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sensevoice "$@"\n')
    command.chmod(0o755)
    nowhere = "http://127.0.0.1:9"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SENSEVOICE_")}
    return {
        **plain,
        **{"PATH": f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"},
        **{"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "CUDA_VISIBLE_DEVICES": ""},
        **{"MODELSCOPE_CACHE": str(home / "modelscope"), "HF_HOME": str(home / "huggingface")},
        **{"MODELSCOPE_ENDPOINT": nowhere, "HF_ENDPOINT": nowhere, "NO_PROXY": "127.0.0.1"},
        **{"GRADIO_TEMP_DIR": str(home / "gradio"), "SENSEVOICE_LANG": "en"},
    }


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """What a command prints, once it has succeeded."""
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def shell(code: str) -> list[str]:
    return ["sh", "-euc", code]


# Blocks that are run ------------------------------------------------------------------------------


def test_every_block_of_commands_or_code_is_run_or_says_why_not() -> None:
    for block in BLOCKS:
        if block.language in ("sh", "python", "json"):
            assert block.note.startswith(("tested: ", "not run by tests: ")), block.code
    of_the_service = {"serve", "curl", "reply", "openai", "jobs", "webhook", "stream"}
    assert TESTED.keys() == {"transcribe", "python", *of_the_service}


def test_the_command_line_examples_work(folder: Path, environment: dict[str, str]) -> None:
    printed = run(shell(TESTED["transcribe"].code), folder, environment)
    assert "starter" in printed  # from `sensevoice info`
    clips = sorted(path.name for path in (ROOT / "examples").glob("*.mp3"))
    results = {path.name for path in (folder / "transcripts").glob("[!.]*")}
    assert results == {f"{clip}.{suffix}" for clip in clips for suffix in ("txt", "json", "srt")}
    spoken = json.loads((folder / "transcripts" / "en.mp3.json").read_text("utf-8"))
    assert spoken["language"] == "en"
    assert spoken["text"] in printed


def test_the_python_example_works(folder: Path, environment: dict[str, str]) -> None:
    lines = run([sys.executable, "-c", TESTED["python"].code], folder, environment).splitlines()
    assert lines[0].split()[2] == "zh"
    assert re.fullmatch(r"\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}", lines[lines.index("1") + 1])


@pytest.fixture(scope="module")
def address(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """The README's server on a free port."""
    command = TESTED["serve"].code.replace("--port 6006", "--port 0")
    assert command != TESTED["serve"].code
    process = subprocess.Popen(
        shell(f"exec {command}"),
        cwd=folder,
        env={
            **environment,
            **{"SENSEVOICE_WEBHOOK_SECRET": "the same secret", "SENSEVOICE_WEBHOOK_ALLOW_PRIVATE": "1"},
            **{"SENSEVOICE_JOB_DIR": str(folder / "jobs")},
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    try:
        assert found, "the server did not start"
        yield found[0]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
        process.stdout.close()


def shape(value: Any) -> Any:
    """Which keys a piece of JSON has, in order, and of what kind the values are."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return type(value).__name__


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_example_gets_a_reply_of_the_shape_that_is_shown(
    address: str, folder: Path, environment: dict[str, str]
) -> None:
    command = TESTED["curl"].code.replace(ADDRESS, address)
    retrying = command.replace(
        "curl ", "curl --silent --fail --retry 30 --retry-delay 1 --retry-connrefused "
    )
    reply = json.loads(run(shell(retrying), folder, environment))
    shown = json.loads(TESTED["reply"].code)
    assert shown["options"].items() <= reply["options"].items()
    shown["options"] = reply["options"]  # it is shown in part
    assert shape(reply) == shape(shown)
    assert (reply["model"], reply["language"]) == ("starter", "en")
    assert reply["duration_s"] == shown["duration_s"]


def python_block(name: str, address: str, folder: Path, environment: dict[str, str]) -> list[str]:
    """The lines that an example prints when it is run against the server."""
    code = TESTED[name].code
    ours = code.replace(ADDRESS, address).replace(
        ADDRESS.replace("http", "ws"), address.replace("http", "ws")
    )
    assert ours != code
    return run([sys.executable, "-c", ours], folder, environment).splitlines()


def test_the_example_with_openais_client_works(
    address: str, folder: Path, environment: dict[str, str]
) -> None:
    segment, *events = python_block("openai", address, folder, environment)
    assert re.match(r"\d+\.\d+ .+ [A-Z_]+ [A-Z]\w+$", segment)
    kinds, texts = zip(*(event.split(" ", 1) for event in events), strict=True)
    assert kinds == ("transcript.text.delta",) * (len(kinds) - 1) + ("transcript.text.done",)
    assert "".join(texts[:-1]) == texts[-1]


def test_the_example_of_a_job_works(address: str, folder: Path, environment: dict[str, str]) -> None:
    lines = python_block("jobs", address, folder, environment)
    assert [line for line in lines if line.endswith(".mp3 1")] == ["en.mp3 1", "zh.mp3 1"]
    assert sum(" --> " in line for line in lines) >= 2


def test_the_receiver_of_webhooks_believes_the_service_and_nobody_else(
    address: str, folder: Path, environment: dict[str, str]
) -> None:
    code = TESTED["webhook"].code.replace("8000", "0")
    code = code.replace(").serve_forever()", ")").replace("HTTPServer((", "server = HTTPServer((")
    assert code.endswith("Receiver)\n")
    serve_on = "print(server.server_port, flush=True)\nserver.serve_forever()\n"
    with subprocess.Popen(
        [sys.executable, "-c", code + serve_on], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as receiver:
        assert receiver.stdout
        hook = f"http://127.0.0.1:{receiver.stdout.readline().strip()}/"
        signature = f"t={int(time.time())},v1={'0' * 64}"
        assert httpx.post(hook, headers={"SenseVoice-Signature": signature}, content=b"{}").status_code == 403
        clip = (folder / "examples" / "en.mp3").read_bytes()
        posted = httpx.post(f"{address}/v1/jobs", files={"file": clip}, data={"webhook": hook}).json()
        told = receiver.stdout.readline()
        receiver.kill()
    assert posted["id"] in told
    assert "'done'" in told


def test_the_example_of_a_live_stream_works(address: str, folder: Path, environment: dict[str, str]) -> None:
    messages = [ast.literal_eval(line) for line in python_block("stream", address, folder, environment)]
    assert [one["type"] for one in messages if one["type"] != "draft"] == ["final", "done"]
    assert messages[-1]["duration_s"] > 3


def test_the_scripts_of_the_first_screen_exist() -> None:
    first = next(block for block in BLOCKS if block.language == "sh")
    scripts = [line.split()[0] for line in first.code.splitlines()]
    assert scripts == ["scripts/app", "scripts/test"]
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)
    assert README[: README.index(first.code)].count("\n") < 15


# Tables and links ---------------------------------------------------------------------------------


def table(heading: str) -> list[list[str]]:
    """The rows, without their head, of the first table after a line that begins with `heading`."""
    _, _, rest = README.partition(f"\n{heading}")
    rows = re.search(r"(?:^\|.*\n)+", rest, re.M)
    assert rows, heading
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[0].splitlines()]
    return cells[2:]


def shown_default(value: object) -> str:
    if value is None:
        return "unset"
    return f"`{value:g}`" if isinstance(value, float) else f"`{str(value).lower()}`"


def test_the_settings_table_is_that_of_the_program() -> None:
    expected = [
        [
            f"`SENSEVOICE_{name.upper()}`",
            f"`--{name.replace('_', '-')}`" if name in server.OPTIONS else "",
            "in the temporary folder" if name == "spool_dir" else shown_default(field.default),
            field.description,
        ]
        for name, field in Settings.model_fields.items()
    ]
    assert table("## Settings") == expected


def test_the_language_table_is_that_of_the_program() -> None:
    assert [row[0] for row in table("## Languages")] == [f"`{code}`" for code in SPOKEN_LANGUAGES]


def test_the_format_table_is_that_of_the_program() -> None:
    assert [row[0] for row in table("## Output formats")] == [f"`{name}`" for name in EXPORTERS]


def test_every_required_package_has_its_reason_in_the_readme() -> None:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    required = sorted(
        {line.partition("==")[0] for line in lines if "==" in line and not line.startswith("#")}
    )
    assert sorted(row[0].strip("`") for row in table("Why each package is there")) == required
    assert all(row[1] for row in table("Why each package is there"))


def test_every_file_that_the_readme_points_to_exists() -> None:
    links = {a or b for a, b in LINK.findall(README)}
    files = {link.partition("#")[0] for link in links if not link.startswith(("http", "#"))}
    assert {"LICENSE", "training/README.md"} <= files
    assert {file for file in files if not (ROOT / file).exists()} == set()


def test_every_heading_that_the_readme_points_to_exists() -> None:
    headings = {
        line.strip("# ").lower().replace(" ", "-") for line in README.splitlines() if line.startswith("#")
    }
    assert {link[1:] for link, _ in LINK.findall(README) if link.startswith("#")} <= headings


def test_the_readme_names_each_environment_variable_rightly() -> None:
    named = {name.lower() for name in re.findall(r"SENSEVOICE_([A-Z_]+)", README)}
    assert named <= set(Settings.model_fields)


def test_the_model_card_beside_the_weights_tells_their_size(starter_parameters: int) -> None:
    card = (ROOT / "sensevoice" / "starter" / "MODEL_CARD.md").read_text("utf-8")
    assert f"{starter_parameters / 1e6:.1f} million" in card
    assert "synthetic speech" in card
    assert "not a substitute for SenseVoiceSmall" in card.replace("\n", " ")


@pytest.fixture(scope="module")
def starter_parameters() -> int:
    from sensevoice.checkpoint import load_checkpoint
    from sensevoice.hub import STARTER_DIRECTORY

    return load_checkpoint(STARTER_DIRECTORY).info.parameters


# Privacy ------------------------------------------------------------------------------------------

WATCHED_RUN = """
import sys

asked = []

def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1"):
            asked.append(address)
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        if arguments[0] not in (None, "127.0.0.1", "localhost", "::1", "0.0.0.0"):
            asked.append(arguments[0])

sys.addaudithook(watch)

import threading, time
import httpx, uvicorn
from sensevoice.apps import server
from sensevoice.settings import Settings

_, app = server.build(Settings(offline=True, device="cpu"))
web = uvicorn.Server(config := uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
listener = config.bind_socket()
threading.Thread(target=web.run, kwargs={"sockets": [listener]}, daemon=True).start()
while not web.started:
    time.sleep(0.05)
url = f"http://127.0.0.1:{listener.getsockname()[1]}"
assert httpx.get(url).status_code == 200
with open("examples/en.mp3", "rb") as clip:
    assert httpx.post(f"{url}/transcribe", files={"file": clip}).json()["language"] == "en"
web.should_exit = True
print("asked:", asked)
"""


def test_offline_no_other_host_is_asked_for_anything(folder: Path, environment: dict[str, str]) -> None:
    usual = {name: value for name, value in environment.items() if "ENDPOINT" not in name}
    assert run([sys.executable, "-c", WATCHED_RUN], folder, usual).splitlines()[-1] == "asked: []"
