from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest

from sensevoice import hub
from sensevoice.checkpoint import load_checkpoint
from sensevoice.errors import ChecksumError, HubUnreachableError, ModelNotFoundError, OptionError
from sensevoice.hub import HUBS, cached, download, find_model

COMMIT = "3847d57b6bdf2dd8875cb1508d2af43d80a16bf7"
TOKENIZER = "chn_jpn_yue_eng_ko_spectok.bpe.model"
BOTH = pytest.mark.parametrize("name", list(HUBS))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class FakeHub:
    """Speaks as much of both hubs' protocols as their clients ask of it, and misbehaves on demand."""

    repositories: dict[str, dict[str, bytes]]
    cut_short: dict[str, int] = field(default_factory=dict)  # file -> how many times to break off half-way
    spoilt: set[str] = field(default_factory=set)  # files sent with another content of the same size
    ranges: list[tuple[str, str]] = field(default_factory=list)  # (file, Range header) that were asked for
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlparse(handler.path)
        self.requests.append(url.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        for model_id, files in self.repositories.items():
            if url.path == f"/api/v1/models/{model_id}/repo":
                return self.send_file(handler, query["FilePath"], files)
            if url.path.startswith(f"/{model_id}/resolve/"):
                return self.send_file(handler, url.path.rpartition("/")[2], files)
            if (body := self.describe(url.path, model_id, files)) is not None:
                return self.send_json(handler, body)
        return self.send_json(handler, {"Code": 404, "Message": "not found"}, status=404)

    def describe(self, path: str, model_id: str, files: dict[str, bytes]) -> object | None:
        sums = {name: (len(content), sha256(content)) for name, content in files.items()}
        if path == f"/api/v1/models/{model_id}/revisions":
            return modelscope({"RevisionMap": {"Branches": [{"Revision": "master"}], "Tags": []}})
        if path == f"/api/v1/models/{model_id}/repo/files":
            entries = [{"Path": n, "Type": "blob", "Size": s, "Sha256": h} for n, (s, h) in sums.items()]
            return modelscope({"Files": entries})
        if path in (f"/api/models/{model_id}", f"/api/models/{model_id}/revision/{COMMIT}"):
            lfs = [
                {"rfilename": n, "size": s, "lfs": {"sha256": h, "size": s, "pointerSize": 9}}
                for n, (s, h) in sums.items()
            ]
            return {"id": model_id, "sha": COMMIT, "siblings": lfs}
        if path == f"/api/models/{model_id}/revision/main":
            return {"id": model_id, "sha": COMMIT, "siblings": []}
        if path.startswith(f"/api/models/{model_id}/tree/"):
            return [
                {
                    "type": "file",
                    "path": n,
                    "size": s,
                    "oid": h[:40],
                    "lfs": {"oid": h, "size": s, "pointerSize": 9},
                }
                for n, (s, h) in sums.items()
            ]
        return None

    def send_json(self, handler: BaseHTTPRequestHandler, body: object, status: int = 200) -> None:
        data = json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def send_file(self, handler: BaseHTTPRequestHandler, name: str, files: dict[str, bytes]) -> None:
        content, etag = files[name], sha256(files[name])
        start = 0
        if wanted := handler.headers.get("Range"):
            self.ranges.append((name, wanted))
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.send_header("ETag", f'"{etag}"')
        handler.send_header("X-Repo-Commit", COMMIT)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        body = content[start:] if name not in self.spoilt else bytes(len(content) - start)
        if self.cut_short.get(name, 0) > 0:
            self.cut_short[name] -= 1
            body = body[: len(body) // 2]
            handler.close_connection = True
        handler.wfile.write(body)


def modelscope(data: object) -> dict[str, object]:
    return {"Code": 200, "Success": True, "Message": "", "Data": data}


@pytest.fixture
def files(small_checkpoint: Path) -> dict[str, bytes]:
    kept = {path.name: path.read_bytes() for path in small_checkpoint.iterdir()}
    return {**kept, "README.md": b"# not wanted", "model.py": b"raise SystemExit('remote code')"}


@pytest.fixture
def vad_files(small_vad: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in small_vad.iterdir()}


@pytest.fixture
def fake(
    files: dict[str, bytes], vad_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[FakeHub]:
    """A hub on this machine with the official ids; its SenseVoiceSmall is the small checkpoint."""
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope-home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(hub, "OFFICIAL_SHA256", {n: sha256(files[n]) for n in ("model.pt", TOKENIZER)})
    monkeypatch.setattr(hub, "OFFICIAL_SIZES", {n: len(files[n]) for n in ("model.pt", TOKENIZER)})
    repositories = {source.asr: dict(files) for source in HUBS.values()}
    repositories |= {source.vad: dict(vad_files) for source in HUBS.values()}
    fake = FakeHub(repositories)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            fake.answer(self)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        fake.endpoint = f"http://127.0.0.1:{server.server_port}"
        yield fake
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def starter(small_checkpoint: Path, small_vad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(small_checkpoint, tmp_path / "starter"))
    shutil.copytree(small_vad, folder / "vad")
    monkeypatch.setattr(hub, "STARTER_DIRECTORY", folder)
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whatever touches the network is written down and fails."""
    touched: list[str] = []

    def fail(what: str) -> object:
        def touch(*args: object, **kwargs: object) -> None:
            touched.append(what)
            raise AssertionError(f"{what} was called")

        return touch

    for owner, what in ((socket, "getaddrinfo"), (socket, "create_connection"), (socket.socket, "connect")):
        monkeypatch.setattr(owner, what, fail(what))
    return touched


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


# Downloads ----------------------------------------------------------------------------------------


@BOTH
def test_a_downloaded_model_can_be_loaded_and_is_cached(fake: FakeHub, cache: Path, name: str):
    assert cached(HUBS[name].asr, name, cache_dir=cache) is None
    folder = download(HUBS[name].asr, name, cache_dir=cache, endpoint=fake.endpoint)
    assert load_checkpoint(folder).vocabulary.size > 100
    found = cached(HUBS[name].asr, name, cache_dir=cache)
    assert found is not None
    assert found.resolve() == folder.resolve()


@BOTH
def test_only_the_files_of_the_layout_are_fetched(fake: FakeHub, cache: Path, name: str):
    folder = download(HUBS[name].asr, name, cache_dir=cache, endpoint=fake.endpoint)
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        *("am.mvn", "config.yaml", "configuration.json", "model.pt"),
        TOKENIZER,
    }
    assert not list(cache.rglob("*.py"))


@BOTH
def test_the_clients_own_variables_say_where_hub_and_cache_are(
    fake: FakeHub, cache: Path, files: dict[str, bytes], name: str
):
    script = f"from sensevoice.hub import find_model; print(find_model('some/model', hub={name!r}).directory)"
    fake.repositories["some/model"] = files
    variables = {"MODELSCOPE_ENDPOINT": fake.endpoint, "MODELSCOPE_CACHE": str(cache)}
    variables |= {"HF_ENDPOINT": fake.endpoint, "HF_HOME": str(cache)}
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **variables, "PYTHONPATH": str(Path(hub.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    folder = Path(run.stdout.splitlines()[-1])
    assert folder.is_relative_to(cache)
    assert (folder / "model.pt").read_bytes() == files["model.pt"]
    assert "model.pt" in run.stderr or "Fetching" in run.stderr  # the progress bar


@BOTH
def test_a_second_download_fetches_no_file_again(fake: FakeHub, cache: Path, name: str):
    first = download(HUBS[name].asr, name, cache_dir=cache, endpoint=fake.endpoint)
    times = {path.name: path.stat().st_mtime_ns for path in first.iterdir()}
    assert download(HUBS[name].asr, name, cache_dir=cache, endpoint=fake.endpoint) == first
    assert {path.name: path.stat().st_mtime_ns for path in first.iterdir()} == times


@BOTH
def test_a_transfer_that_breaks_off_is_resumed_where_it_stopped(
    fake: FakeHub, cache: Path, files: dict[str, bytes], name: str, monkeypatch: pytest.MonkeyPatch
):
    from huggingface_hub import constants

    monkeypatch.setattr(
        constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16
    )  # it keeps whole chunks, of 10 MB otherwise
    fake.cut_short["model.pt"] = 1
    folder = download(HUBS[name].asr, name, cache_dir=cache, endpoint=fake.endpoint)
    assert (folder / "model.pt").read_bytes() == files["model.pt"]
    assert [file for file, _ in fake.ranges] == ["model.pt"]
    assert 0 < int(fake.ranges[0][1].removeprefix("bytes=").rstrip("-")) < len(files["model.pt"])


def test_a_download_that_was_given_up_is_resumed_by_the_next_one(
    fake: FakeHub, cache: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    import modelscope_hub._download as client

    model_id = HUBS["modelscope"].asr
    monkeypatch.setattr(client, "DOWNLOAD_RETRY_TIMES", 0)
    fake.cut_short["model.pt"] = 1
    with pytest.raises(HubUnreachableError, match="modelscope cannot be reached"):
        download(model_id, cache_dir=cache, endpoint=fake.endpoint)
    assert cached(model_id, cache_dir=cache) is None
    folder = download(model_id, cache_dir=cache, endpoint=fake.endpoint)
    assert (folder / "model.pt").read_bytes() == files["model.pt"]
    assert len(fake.ranges) == 1


@BOTH
def test_a_file_that_is_not_the_one_the_hub_lists_is_refused_and_deleted(
    fake: FakeHub, cache: Path, files: dict[str, bytes], name: str, monkeypatch: pytest.MonkeyPatch
):
    import modelscope_hub._download as client

    monkeypatch.setattr(client, "DOWNLOAD_HASH_RETRY_TIMES", 1)
    fake.spoilt.add("model.pt")
    with pytest.raises(ChecksumError) as caught:
        download(HUBS[name].asr, name, cache_dir=cache, endpoint=fake.endpoint)
    assert sha256(files["model.pt"]).startswith(str(caught.value.facts["expected"]))
    assert sha256(bytes(len(files["model.pt"]))).startswith(str(caught.value.facts["found"]))
    assert "model.pt" in str(caught.value.facts["path"])
    assert not list(cache.rglob("model.pt"))
    assert cached(HUBS[name].asr, name, cache_dir=cache) is None
    fake.spoilt.clear()
    folder = download(HUBS[name].asr, name, cache_dir=cache, endpoint=fake.endpoint)
    assert (folder / "model.pt").read_bytes() == files["model.pt"]


@BOTH
def test_an_official_file_that_the_hub_itself_has_exchanged_is_refused(
    fake: FakeHub, cache: Path, files: dict[str, bytes], name: str
):
    exchanged = bytes(len(files["model.pt"]))
    fake.repositories[HUBS[name].asr]["model.pt"] = exchanged
    with pytest.raises(ChecksumError) as caught:
        download(HUBS[name].asr, name, cache_dir=cache, endpoint=fake.endpoint)
    assert caught.value.facts["expected"] == sha256(files["model.pt"])
    assert caught.value.facts["found"] == sha256(exchanged)


def test_the_published_hashes_and_sizes_are_the_official_ones():
    assert hub.OFFICIAL_SHA256["model.pt"].startswith("833ca2dcfdf8ec91")
    assert hub.OFFICIAL_SHA256[TOKENIZER].startswith("aa87f86064c3730d")
    assert hub.OFFICIAL_SIZES == {"model.pt": 936_291_369, TOKENIZER: 377_341}


@BOTH
def test_a_model_that_the_hub_does_not_have_is_not_found(fake: FakeHub, cache: Path, name: str):
    with pytest.raises(ModelNotFoundError, match="nobody/nothing"):
        download("nobody/nothing", name, cache_dir=cache, endpoint=fake.endpoint)


@BOTH
def test_a_repository_without_the_model_files_is_not_a_model(fake: FakeHub, cache: Path, name: str):
    fake.repositories["some/thing"] = {"config.yaml": b"model: X"}
    with pytest.raises(ModelNotFoundError, match="some/thing"):
        download("some/thing", name, cache_dir=cache, endpoint=fake.endpoint)


def test_an_unknown_hub_is_an_option_error():
    with pytest.raises(OptionError, match="choose one of modelscope, huggingface"):
        download("iic/SenseVoiceSmall", "github")


def test_a_cached_model_of_another_size_is_not_taken_for_the_official_one(fake: FakeHub, cache: Path):
    folder = download("iic/SenseVoiceSmall", cache_dir=cache, endpoint=fake.endpoint)
    (folder / "model.pt").write_bytes(b"short")
    assert cached("iic/SenseVoiceSmall", cache_dir=cache) is None


@pytest.mark.parametrize("layout", ["models/iic/SenseVoiceSmall", "hub/models/iic/SenseVoiceSmall"])
def test_what_older_modelscope_clients_cached_is_found(
    fake: FakeHub, cache: Path, small_checkpoint: Path, layout: str
):
    shutil.copytree(small_checkpoint, cache / layout)
    assert cached("iic/SenseVoiceSmall", cache_dir=cache) == cache / layout


# Which model --------------------------------------------------------------------------------------


@BOTH
def test_without_a_wish_the_official_model_and_vad_are_fetched(
    fake: FakeHub, cache: Path, starter: Path, name: str
):
    found = find_model(None, hub=name, cache_dir=cache, endpoint=fake.endpoint)
    assert not found.is_starter
    assert found.reason == ""
    assert load_checkpoint(found.directory).vocabulary.size > 100
    assert found.directory.is_relative_to(cache)
    assert found.vad_directory.is_relative_to(cache)
    assert (found.vad_directory / "model.pt").is_file()


@BOTH
def test_what_one_hub_gave_is_found_offline_whichever_hub_is_set(
    fake: FakeHub, cache: Path, starter: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    online = find_model(None, hub=name, cache_dir=cache, endpoint=fake.endpoint)
    asked = len(fake.requests)
    for other in HUBS:
        found = find_model(None, hub=other, offline=True, cache_dir=cache, endpoint=fake.endpoint)
        assert found.directory.resolve() == online.directory.resolve()
        assert found.vad_directory.resolve() == online.vad_directory.resolve()
    assert len(fake.requests) == asked


def test_offline_the_network_is_never_touched(
    cache: Path, starter: Path, no_network: list[str], small_checkpoint: Path
):
    found = find_model(None, offline=True, cache_dir=cache)
    assert (found.directory, found.vad_directory) == (starter, starter / "vad")
    assert found.is_starter
    assert "offline mode is on" in found.reason
    given = find_model(str(small_checkpoint), offline=True, cache_dir=cache)
    assert (given.directory, given.vad_directory) == (small_checkpoint, starter / "vad")
    for name in HUBS:
        with pytest.raises(HubUnreachableError, match="offline mode is on"):
            find_model("some/model", hub=name, offline=True, cache_dir=cache)
    assert no_network == []


def test_the_starter_can_be_asked_for_by_name(starter: Path, no_network: list[str]):
    found = find_model("starter")
    assert (found.directory, found.is_starter, found.reason) == (starter, True, "")
    assert no_network == []


@BOTH
def test_a_refused_connection_leads_to_the_starter_at_once(
    cache: Path, starter: Path, closed_port: str, name: str
):
    began = time.monotonic()
    found = find_model(None, hub=name, cache_dir=cache, endpoint=closed_port)
    assert time.monotonic() - began < 2
    assert (found.directory, found.vad_directory, found.is_starter) == (starter, starter / "vad", True)
    assert f"The model hub {name} cannot be reached" in found.reason


@BOTH
def test_a_hub_that_swallows_everything_costs_no_more_than_the_time_allowed(
    cache: Path, starter: Path, small_checkpoint: Path, name: str
):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for model in (None, str(small_checkpoint)):
            began = time.monotonic()
            found = find_model(model, hub=name, timeout_s=0.5, cache_dir=cache, endpoint=endpoint)
            assert 0.4 < time.monotonic() - began < 1.5
            assert found.vad_directory == starter / "vad"
            assert found.is_starter is (model is None)


def test_a_name_server_that_hangs_costs_no_more_than_the_time_allowed(
    cache: Path, starter: Path, monkeypatch: pytest.MonkeyPatch
):
    woken = threading.Event()

    def hang(*args: object, **kwargs: object) -> None:
        woken.wait(30)
        raise socket.gaierror("no name server")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    began = time.monotonic()
    found = find_model(None, timeout_s=0.5, cache_dir=cache, endpoint="http://hub.invalid")
    assert time.monotonic() - began < 1.5
    assert found.is_starter
    assert "no answer within 0.5 s" in found.reason
    woken.set()


def test_the_time_allowed_leaves_start_up_within_five_seconds():
    assert hub.PROBE_TIMEOUT_S <= 4.5


def test_a_login_page_is_no_hub(cache: Path, starter: Path, fake: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(FakeHub, "send_json", send_login_page)
    found = find_model(None, cache_dir=cache, endpoint=fake.endpoint)
    assert found.is_starter


def send_login_page(self: FakeHub, handler: BaseHTTPRequestHandler, body: object, status: int = 200) -> None:
    page = b"<html>Room number and name, please</html>"
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(page)))
    handler.end_headers()
    handler.wfile.write(page)


def test_a_download_that_fails_falls_back_to_the_starter_with_the_reason(
    fake: FakeHub, cache: Path, starter: Path
):
    fake.repositories["iic/SenseVoiceSmall"]["model.pt"] = b"exchanged"
    found = find_model(None, cache_dir=cache, endpoint=fake.endpoint)
    assert found.is_starter
    assert "is not the published file" in found.reason


def test_without_a_starter_the_reason_is_the_error(
    cache: Path, closed_port: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hub, "STARTER_DIRECTORY", tmp_path / "no starter")
    with pytest.raises(HubUnreachableError):
        find_model(None, cache_dir=cache, endpoint=closed_port)


@pytest.mark.parametrize("model", ["/no/such/folder", "../nowhere", "a/b/c", "SenseVoiceSmall", "~/nothing"])
def test_a_folder_that_was_asked_for_and_is_not_there_is_an_error(
    starter: Path, no_network: list[str], model: str
):
    with pytest.raises(ModelNotFoundError):
        find_model(model)
    assert no_network == []


@BOTH
def test_an_id_that_was_asked_for_and_cannot_be_had_is_an_error(
    fake: FakeHub, cache: Path, starter: Path, closed_port: str, name: str
):
    with pytest.raises(HubUnreachableError):
        find_model("some/model", hub=name, cache_dir=cache, endpoint=closed_port)
    with pytest.raises(ModelNotFoundError, match="some/model"):
        find_model("some/model", hub=name, cache_dir=cache, endpoint=fake.endpoint)


@BOTH
def test_an_id_that_was_asked_for_is_fetched_with_the_official_vad(
    fake: FakeHub, cache: Path, files: dict[str, bytes], name: str
):
    fake.repositories["some/model"] = files
    found = find_model("some/model", hub=name, cache_dir=cache, endpoint=fake.endpoint)
    assert load_checkpoint(found.directory).info.name != "starter"
    assert (found.vad_directory / "config.yaml").read_bytes() == fake.repositories[HUBS[name].vad][
        "config.yaml"
    ]


def test_a_vad_beside_the_model_is_preferred(
    small_checkpoint: Path, small_vad: Path, tmp_path: Path, no_network: list[str]
):
    folder = Path(shutil.copytree(small_checkpoint, tmp_path / "mine"))
    shutil.copytree(small_vad, folder / "vad")
    found = find_model(str(folder))
    assert (found.directory, found.vad_directory, found.is_starter) == (folder, folder / "vad", False)
    assert no_network == []
