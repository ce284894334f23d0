"""`sensevoice …` and `python -m sensevoice …`: what they write, where, and how they end."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clips import encode, pcm_wav, speechlike

from sensevoice import __version__, hub
from sensevoice.apps import about, batch, cli, files, server
from sensevoice.checkpoint import OFFICIAL_LICENCE, load_checkpoint
from sensevoice.errors import HubUnreachableError
from sensevoice.exporters import EXPORTERS, export
from sensevoice.hub import HUBS, STARTER_DIRECTORY
from sensevoice.options import LANGUAGES, SPOKEN_LANGUAGES, TranscribeOptions
from sensevoice.pipeline import Transcriber
from sensevoice.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The starter, no network, empty caches, and nothing of the caller's own settings."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SENSEVOICE_{name.upper()}", raising=False)
    monkeypatch.setenv("SENSEVOICE_OFFLINE", "1")
    monkeypatch.setenv("SENSEVOICE_DEVICE", "cpu")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(about, "cached", lambda model_id, name: None)
    monkeypatch.setattr(hub, "cached", lambda model_id, name="modelscope", cache_dir=None: None)
    level = logging.getLogger("sensevoice").level
    yield
    logging.getLogger("sensevoice").setLevel(level)


@pytest.fixture(scope="session")
def starter() -> Transcriber:
    return Transcriber.load("starter", device="cpu")


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder with one recording in two formats, one that breaks off, and things that are no recordings."""
    folder = tmp_path / "recordings"
    (folder / "monday").mkdir(parents=True)
    (folder / ".trash").mkdir()
    (folder / "a.wav").write_bytes(pcm_wav(speechlike(1.0)))
    (folder / "a.flac").write_bytes(encode(speechlike(1.5, seed=1), 16_000, "flac"))
    (folder / "monday" / "B.WAV").write_bytes(pcm_wav(speechlike(0.5, seed=2)))
    for name in ("notes.txt", "code.ts", ".hidden.wav", ".trash/old.wav"):
        (folder / name).write_bytes(b"no recording")
    return folder


def tree(folder: Path) -> set[str]:
    """The files in a folder that are not hidden, by their paths there."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if not path.name.startswith(".")}


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that must end with usage says last."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: sensevoice")
    return said.splitlines()[-1]


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


# What is printed and written ----------------------------------------------------------------------


@pytest.mark.parametrize("format_name", EXPORTERS)
def test_one_transcript_is_printed_in_any_format(
    format_name: str, starter: Transcriber, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("transcribe", EXAMPLES / "zh.mp3", "-f", format_name) == 0
    expected = export(starter.transcribe(EXAMPLES / "zh.mp3"), format_name)
    assert len(expected) > 20
    assert capsys.readouterr().out == expected


def test_each_recording_and_format_is_a_file_of_its_own(
    recordings: Path, tmp_path: Path, starter: Transcriber
) -> None:
    out = tmp_path / "new" / "out"
    assert run("transcribe", recordings, "-f", "txt,json,srt", "--out", out) == 0
    names = ("a.wav", "a.flac", "monday/B.WAV")
    assert tree(out) == {f"{name}.{suffix}" for name in names for suffix in ("txt", "json", "srt")}
    for name in names:
        transcript = starter.transcribe(recordings / name, TranscribeOptions())
        for format_name in ("txt", "json", "srt"):
            written = (out / f"{name}.{format_name}").read_bytes().decode()
            assert written == export(transcript, format_name)


def test_labels_are_in_the_language_that_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("transcribe", EXAMPLES / "events.mp3", "--lang", "en") == 0
    assert "[Laughter]" in capsys.readouterr().out
    assert run("transcribe", EXAMPLES / "events.mp3") == 0
    assert "[笑声]" in capsys.readouterr().out


def test_several_transcripts_are_printed_under_their_names(
    recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("transcribe", recordings) == 0
    titles = [line for line in capsys.readouterr().out.splitlines() if line.startswith("==>")]
    assert titles == [f"==> {recordings / name} <==" for name in ("a.flac", "a.wav", "monday/B.WAV")]


@pytest.mark.parametrize(
    ("inputs", "formats", "written"),
    [
        (["a.wav"], "srt,vtt", {"a.wav.srt", "a.wav.vtt"}),
        (["a.wav", "a.flac"], "srt", {"a.wav.srt", "a.flac.srt"}),
    ],
)
def test_what_cannot_be_one_stream_goes_to_the_current_folder(
    inputs: list[str],
    formats: str,
    written: set[str],
    recordings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run("transcribe", *(recordings / name for name in inputs), "-f", formats) == 0
    assert tree(tmp_path / "here") == written
    assert capsys.readouterr().out == ""


def test_every_option_reaches_the_transcription(recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--allow en,zh --no-vad --no-itn --ban-emo-unk --emotion-threshold 0.7 --show-neutral"
    more = "--show-speech --max-duration-s 60 -f json -q"
    assert run("transcribe", recordings / "a.wav", *flags.split(), *more.split()) == 0
    options = json.loads(capsys.readouterr().out)["options"]
    del options["vad"]
    assert options == {
        "language": "auto",
        "allowed_languages": ["en", "zh"],
        "use_itn": False,
        "use_vad": False,
        "ban_emo_unk": True,
        "emotion_threshold": 0.7,
        "show_neutral": True,
        "show_speech": True,
        "max_duration_s": 60.0,
    }


def test_the_command_line_wins_over_the_environment(
    recordings: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SENSEVOICE_LANGUAGE", "ko")
    languages = []
    for flags in ([], ["-l", "yue"]):
        assert run("transcribe", recordings / "a.wav", "-f", "json", *flags) == 0
        languages.append(json.loads(capsys.readouterr().out)["options"]["language"])
    assert languages == ["ko", "yue"]


# Which name goes with which recording -------------------------------------------------------------


def names_of(*paths: Path) -> list[str]:
    found, faults = files.find_recordings(paths)
    assert faults == []
    return [recording.name for recording in found]


def touch(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (["x/a.wav", "x/a.mp3"], ["a.wav", "a.mp3"]),
        (["x/a.wav", "y/a.wav"], ["x/a.wav", "y/a.wav"]),
        (["x/a.wav", "y/a.wav", "y/b.wav"], ["x/a.wav", "y/a.wav", "b.wav"]),
        (["1/x/a.wav", "2/x/a.wav", "2/y/a.wav"], ["1/x/a.wav", "2/x/a.wav", "y/a.wav"]),
        (["x/a.wav", "y/A.wav"], ["x/a.wav", "y/A.wav"]),  # one file where case is ignored
    ],
)
def test_results_that_would_have_one_name_get_their_folders_names(
    inputs: list[str], names: list[str], tmp_path: Path
) -> None:
    assert names_of(*touch(tmp_path, *inputs)) == names


def test_the_order_of_inputs_changes_no_name(tmp_path: Path) -> None:
    paths = touch(tmp_path, "1/x/a.wav", "2/x/a.wav", "2/x/b.wav", "a.wav")
    forwards = dict(zip(paths, names_of(*paths), strict=True))
    backwards = dict(zip(paths[::-1], names_of(*paths[::-1]), strict=True))
    assert forwards == backwards
    assert len({name.casefold() for name in forwards.values()}) == len(paths)


def test_folders_are_searched_in_order_for_what_looks_like_a_recording(recordings: Path) -> None:
    assert names_of(recordings) == ["a.flac", "a.wav", "monday/B.WAV"]


def test_two_folders_keep_their_own_structure_where_they_clash(tmp_path: Path) -> None:
    touch(tmp_path, "x/sub/a.wav", "y/sub/a.wav", "y/sub/b.wav")
    assert names_of(tmp_path / "x", tmp_path / "y") == ["x/sub/a.wav", "y/sub/a.wav", "sub/b.wav"]


def test_a_recording_that_is_given_twice_is_transcribed_once(
    recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recordings)
    assert names_of(Path("a.wav"), recordings, Path("monday/../a.wav")) == ["a.wav", "a.flac", "monday/B.WAV"]


def test_no_name_leaves_the_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "x/a.wav", "here/a.wav")
    monkeypatch.chdir(tmp_path / "here")
    assert names_of(Path("../x/a.wav"), Path("a.wav")) == ["x/a.wav", "here/a.wav"]


def test_running_again_replaces_the_results_of_the_same_recording(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("transcribe", recordings / "a.wav", "--out", out) == 0
    (out / "a.wav.txt").write_text("old")
    assert run("transcribe", recordings / "a.wav", "--out", out) == 0
    assert (out / "a.wav.txt").read_text() != "old"


def test_the_results_of_another_recording_are_kept_unless_it_is_gone(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    other = tmp_path / "other" / "a.wav"
    other.parent.mkdir()
    shutil.copy(recordings / "a.wav", other)
    assert run("transcribe", other, "--out", out) == 0
    (out / "a.wav.txt").write_text("kept")
    assert run("transcribe", recordings / "a.wav", "--out", out, "-f", "srt") == 1
    assert tree(out) == {"a.wav.txt"}
    assert f"{out / 'a.wav.txt'} was made from {other} and is kept" in capsys.readouterr().err
    other.unlink()
    assert run("transcribe", recordings / "a.wav", "--out", out) == 0
    assert (out / "a.wav.txt").read_text() != "kept"


def test_a_damaged_record_of_sources_is_passed_over(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / files.SOURCES_FILE).write_bytes(b'\xff{"name": \n[]\n"x"\n{"name": "a.wav"}\n')
    assert run("transcribe", recordings / "a.wav", "--out", out) == 0
    assert tree(out) == {"a.wav.txt"}


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_the_old_file_whole(
    fault: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav.txt"
    files.write_whole(path, "old 旧\n")

    def interrupted(*_: object) -> None:
        raise fault

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(fault):
        files.write_whole(path, "new")
    assert path.read_bytes() == "old 旧\n".encode()
    assert list(tmp_path.iterdir()) == [path]


# What goes wrong ----------------------------------------------------------------------------------


def test_one_bad_file_does_not_stop_the_others(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = pcm_wav(speechlike(3.0))
    (recordings / "aa.wav").write_bytes(whole[: len(whole) // 2])
    (recordings / "empty.wav").touch()
    out = tmp_path / "out"
    code = run("transcribe", recordings, recordings / "notes.txt", "nowhere.wav", "--out", out)
    said = capsys.readouterr().err
    assert code == 1
    assert tree(out) == {"a.wav.txt", "a.flac.txt", "monday/B.WAV.txt"}
    assert f"sensevoice: {recordings / 'aa.wav'}: aa.wav breaks off after 1.5 s of 3.0 s." in said
    assert f"sensevoice: {recordings / 'empty.wav'}: empty.wav holds no sound." in said
    assert f"sensevoice: {recordings / 'notes.txt'}: notes.txt cannot be read as a recording" in said
    assert "sensevoice: There is no file 'nowhere.wav'." in said
    assert "6 recordings, 3.0 s of audio" in said
    assert "3 failed" in said


def test_an_error_that_nobody_foresaw_is_named_without_a_trace(
    recordings: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(*_: object) -> None:
        raise MemoryError("all 8 GB are taken\nand more")

    monkeypatch.setattr(Transcriber, "transcribe", explode)
    assert run("transcribe", recordings / "a.wav", "-q") == 1
    expected = f"sensevoice: {recordings / 'a.wav'}: unexpected MemoryError: all 8 GB are taken\n"
    assert capsys.readouterr().err == expected


def test_a_result_that_cannot_be_written_is_a_failed_file(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "a.wav.txt").mkdir(parents=True)
    assert run("transcribe", recordings / "a.wav", recordings / "a.flac", "--out", tmp_path / "out") == 1
    assert (tmp_path / "out" / "a.flac.txt").is_file()
    assert "a directory" in capsys.readouterr().err.lower()


def test_quiet_says_nothing_when_all_is_well(recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("transcribe", recordings / "a.wav", "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_the_starter_is_named_with_the_way_to_the_official_model(
    recordings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run("transcribe", recordings / "a.wav") == 0
    assert "sensevoice download" in caplog.text
    assert "offline mode is on" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        (["-l", "fr"], LANGUAGES),
        (["-f", "txt,doc"], EXPORTERS),
        (["--allow", "zh,fr"], SPOKEN_LANGUAGES),
        (["--lang", "fr"], ("zh", "en")),
        (["--hub", "github"], HUBS),
    ],
)
def test_an_unknown_choice_is_answered_with_the_known_ones(
    arguments: list[str], choices: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = usage_error(capsys, "transcribe", EXAMPLES / "zh.mp3", *arguments)
    assert all(choice in said for choice in choices)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "required: COMMAND"),
        (["transcribe"], "required: FILE_OR_FOLDER"),
        (["transcribe", "a.wav", "--emotion-threshold", "1.5"], "'1.5' is no number from 0 to 1"),
        (["transcribe", "a.wav", "--emotion-threshold", "high"], "'high' is no number from 0 to 1"),
        (["transcribe", "a.wav", "-l", "zh", "--allow", "en"], "--allow: needs -l auto, not zh"),
        (["transcribe", "a.wav", "--max-duration-s", "-1"], "--max-duration-s: input should be greater"),
        (["serve", "--port", "many"], "--port: input should be a valid integer"),
    ],
)
def test_wrong_usage_ends_with_2_and_the_reason(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reason in usage_error(capsys, *arguments)


def test_a_folder_without_recordings_is_no_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = usage_error(capsys, "transcribe", tmp_path)
    assert f"The folder {tmp_path} holds no sound or video file." in said


def test_an_output_folder_that_is_a_file_is_wrong_usage(
    recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = usage_error(capsys, "transcribe", recordings / "a.wav", "--out", recordings / "notes.txt")
    assert f"argument --out: {recordings / 'notes.txt'}: File exists" in said


@pytest.mark.parametrize("command", [["transcribe", "a.wav"], ["download"], ["serve"], ["info"], ["bench"]])
def test_a_wrong_variable_is_named_by_every_command(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SENSEVOICE_LANGUAGE", "fr")
    said = usage_error(capsys, *command)
    assert "environment variable SENSEVOICE_LANGUAGE: input should be 'auto', 'zh', 'en'" in said
    assert said.endswith("not 'fr'")


def test_a_model_that_is_not_there_is_a_sentence(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("transcribe", recordings / "a.wav", "--model", tmp_path / "nowhere") == 1
    assert f"sensevoice: There is no model at '{tmp_path / 'nowhere'}'" in capsys.readouterr().err


def test_ctrl_c_ends_with_130(
    recordings: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Transcriber, "transcribe", interrupt)
    assert run("transcribe", recordings, "-q") == 130
    assert capsys.readouterr().err == "sensevoice: interrupted\n"


# The other commands -------------------------------------------------------------------------------


def test_download_fetches_the_official_model_and_its_vad(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "probe", lambda *_: None)
    monkeypatch.setattr(hub, "download", lambda model_id, name: Path("/cache", name, model_id))
    assert run("download", "--no-offline", "--hub", "huggingface") == 0
    assert run("download", "--no-offline", "some/model") == 0
    assert capsys.readouterr().out.splitlines() == [
        "/cache/huggingface/FunAudioLLM/SenseVoiceSmall",
        "/cache/huggingface/funasr/fsmn-vad",
        "/cache/modelscope/some/model",
    ]


def test_a_hub_that_cannot_be_reached_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert run("download", "--no-offline") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("sensevoice: The model hub modelscope cannot be reached (")
    assert said.err.endswith("Check the connection, or give a local model folder.\n")


def test_download_offline_shows_what_is_cached_and_asks_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "probe", lambda *_: pytest.fail("the network was touched"))
    assert run("download") == 1
    assert "offline mode is on" in capsys.readouterr().err
    monkeypatch.setattr(hub, "cached", lambda model_id, name: Path("/cache", model_id))
    assert run("download") == 0
    modelscope = HUBS["modelscope"]
    assert capsys.readouterr().out.splitlines() == [f"/cache/{modelscope.asr}", f"/cache/{modelscope.vad}"]


def test_serve_takes_the_same_options_as_app_sensevoice(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Settings] = []
    monkeypatch.setattr(server, "run", lambda settings: served.append(settings) or 0)
    options = "--host 127.0.0.1 --port 7000 --model starter --hub huggingface --device cpu --no-offline"
    more = "--precision fp32 --no-ui --lang en --language yue --max-duration-s 60 --max-upload-mb 5"
    arguments = [*options.split(), *more.split()]
    assert run("serve", *arguments) == 0
    assert served == [server.parse_arguments(arguments)]
    assert served[0].model_dump(include=set(server.OPTIONS)) == {
        "host": "127.0.0.1", "port": 7000, "model": "starter", "hub": "huggingface", "device": "cpu",
        "precision": "fp32",
        "offline": False, "ui": False, "lang": "en", "language": "yue", "max_duration_s": 60.0, "max_upload_mb": 5.0,
    }  # fmt: skip


def test_info_names_versions_model_and_terms(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    parameters = sum(p.numel() for p in load_checkpoint(STARTER_DIRECTORY).network.parameters())
    assert report["version"] == __version__
    assert report["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert report["device"] == "cpu"
    assert report["model"]["name"] == "starter"
    assert report["model"]["parameters"] == parameters
    assert "offline mode is on" in report["model"]["reason"]
    assert "synthetic speech" in report["model"]["attribution"]
    assert report["model"]["vad"]["path"] == str(STARTER_DIRECTORY / "vad")
    assert [(row["model"], row["path"]) for row in report["cached"]] == [
        (model, None) for source in HUBS.values() for model in (source.asr, source.vad)
    ]
    assert run("info") == 0
    text = capsys.readouterr().out
    assert f"parameters: {parameters:,}\n" in text
    assert "iic/SenseVoiceSmall (modelscope): not cached\n" in text


def test_bench_times_speech_detection_and_recognition(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "--lang", "en") == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("starter on cpu, precision auto, loaded in ")
    assert [row.rpartition(" s, RTFx")[0].rpartition(" in ")[0] for row in rows] == [
        "speech detection: 10 s of sound",
        "recognition: 10 s of sound",
        "speech detection: 60 s of sound",
        "recognition: 60 s of sound",
    ]
    assert all(float(row.split(" in ")[1].split()[0]) > 0 for row in rows)


def test_bench_times_a_recording_in_either_language(
    recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bench", "--lang", "zh", recordings / "a.wav") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("完整识别 a.wav：1 秒音频用时 ")
    assert run("bench", recordings / "notes.txt") == 1
    assert "notes.txt cannot be read as a recording" in capsys.readouterr().err


def test_info_says_what_is_wrong_with_a_model_or_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("info", "--model", tmp_path / "nowhere", "--device", "cuda:99") == 1
    said = capsys.readouterr().out
    assert "There is no device 'cuda:99' here" in said
    assert "There is no model at" in said


def test_info_tells_of_a_model_that_the_hub_would_send_and_fetches_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(about, "probe", lambda *_: None)
    monkeypatch.setattr(hub, "download", lambda *_: pytest.fail("something was fetched"))
    model = about.describe_installation(Settings(offline=False))["model"]
    assert (model["name"], model["path"], model["vad"]) == ("SenseVoiceSmall", None, None)
    assert model["licence"] == OFFICIAL_LICENCE
    assert 230e6 < model["parameters"] < 240e6
    assert "modelscope has it" in model["reason"]


@pytest.mark.parametrize(("model", "is_starter"), [(None, True), ("some/model", False)])
def test_info_falls_back_as_loading_does_when_the_hub_is_silent(
    model: str | None, is_starter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object) -> None:
        raise HubUnreachableError("modelscope", "no answer within 4 s")

    monkeypatch.setattr(about, "probe", silent)
    report = about.describe_installation(Settings(offline=False, model=model))
    assert "no answer within 4 s" in report["model"]["reason" if is_starter else "error"]
    assert about.has_error(report) is not is_starter


# The program itself -------------------------------------------------------------------------------


def program(*arguments: object, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-m", "sensevoice", *map(str, arguments)],
        **{"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
    )


@pytest.mark.parametrize("command", ["", "transcribe", "download", "serve", "info", "bench"])
def test_help_is_to_be_had_for_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: sensevoice {command}".rstrip())


def test_no_heavy_library_is_loaded_before_it_is_needed() -> None:
    script = (
        "import sys; from sensevoice.apps import cli; cli.make_parser().format_help(); "
        "print({'torch', 'av', 'gradio', 'fastapi', 'sentencepiece', 'modelscope'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("chosen", ["", "ACTIVE"])
def test_pytorchs_threads_sleep_while_they_wait_unless_told_otherwise(chosen: str) -> None:
    code = "import os, sys, sensevoice.apps.cli; assert 'torch' not in sys.modules; "
    code += "print(os.environ['OMP_WAIT_POLICY'])"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": chosen} if chosen else {}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == (chosen or "PASSIVE")


def test_the_module_runs_as_a_program() -> None:
    said, _ = program("--version").communicate(timeout=60)
    assert said == f"sensevoice {__version__}\n"
    wrong = program("transcribe")
    assert "usage:" in wrong.communicate(timeout=60)[1]
    assert wrong.returncode == 2


def test_the_program_ends_with_1_when_a_file_failed(recordings: Path) -> None:
    process = program("transcribe", recordings / "a.wav", recordings / "notes.txt", "-f", "json", "-f", "txt")
    out, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"==> {recordings / 'a.wav'} <==" in out
    assert "notes.txt cannot be read as a recording" in said
    assert "Traceback" not in said
    assert "%|" not in said  # no bar, since this is no terminal


def test_a_reader_that_goes_away_is_no_stack_trace(recordings: Path) -> None:
    process = program("transcribe", recordings, "-q")
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(60) == 141
    process.stderr.close()
    assert said == ""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_leaves_whole_files_only(recordings: Path, tmp_path: Path) -> None:
    many, out = tmp_path / "many", tmp_path / "out"
    many.mkdir()
    for i in range(300):
        (many / f"{i:03d}.wav").hardlink_to(recordings / "a.flac")
    process = program("transcribe", many, "--out", out, "-f", "json")
    while not (out / "000.wav.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.endswith("sensevoice: interrupted\n")
    assert "Traceback" not in said
    results = [path for path in out.iterdir() if path.name != files.SOURCES_FILE]
    assert 1 <= len(results) < 300
    assert all(json.loads(path.read_text("utf-8"))["duration_s"] == 1.5 for path in results)


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
def test_a_terminal_sees_how_many_files_and_seconds_are_done(recordings: Path, tmp_path: Path) -> None:
    import fcntl
    import termios

    terminal, stderr = os.openpty()
    fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = program("transcribe", recordings, "--out", tmp_path / "out", stderr=stderr)
    os.close(stderr)
    said = b"".join(iter(lambda: read_terminal(terminal), b"")).decode()
    os.close(terminal)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert "1/3 a.flac   0%|" in said
    assert "3/3 B.WAV 100%|" in said
    assert ", 3 s of audio" in said
    assert said.splitlines()[-1].endswith(f"results in {tmp_path / 'out'}")


def read_terminal(terminal: int) -> bytes:
    """What was written to it; nothing once the other side is closed, which Linux calls an error."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


def test_the_meter_counts_each_recording_once_however_it_ends() -> None:
    meter = batch.Meter(2, shown=False)
    with meter:
        for name in ("a.wav", "b.wav"):
            meter.start(files.Recording(Path(name), name))
    meter.heard_s, meter.failed = 12.34, 1
    assert meter.begun == 2
    assert meter.summary(None).startswith("2 recordings, 12.3 s of audio in ")
    assert meter.summary(None).endswith(", 1 failed")


def test_an_option_is_written_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts with `--emo` would break on the day when a second option begins like that."""
    assert "unrecognized arguments: --emo" in usage_error(capsys, "transcribe", "a.wav", "--emo", "0.5")
