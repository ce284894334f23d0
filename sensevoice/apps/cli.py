"""The command line: `sensevoice transcribe`, `download`, `serve`, `info` and `bench`.

    sensevoice transcribe meeting.mp3
    sensevoice transcribe interviews/ -l en -f txt,json,srt --out transcripts

Exit codes: 0 all is well, 1 some files failed or there is no usable model, 2 usage, 130 interrupted.
Libraries that take long to load are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensevoice import __version__
from sensevoice.apps import server
from sensevoice.apps.batch import Batch, run_batch, sentence
from sensevoice.apps.common import (
    INTERRUPTED,
    MODEL_OPTIONS,
    add_settings_option,
    add_settings_options,
    complain,
    read_settings,
    start_logging,
)
from sensevoice.apps.files import OutputFolder, find_recordings
from sensevoice.errors import SenseVoiceError, UnknownFormatError, UnknownLanguageError
from sensevoice.exporters import EXPORTERS
from sensevoice.options import SPOKEN_LANGUAGES, TranscribeOptions
from sensevoice.strings import DEFAULT_LANG, LANGS

if TYPE_CHECKING:
    from sensevoice.settings import Settings

OK, FAILED, BROKEN_PIPE = 0, 1, 141  # 141 as shells give it: 128 + SIGPIPE
CONNECT_TIMEOUT_S = 10.0

RESULTS_HELP = """\
where results go:
  With --out, each recording and format is a file of its own, DIR/<file name>.<format>:
  a.wav becomes a.wav.txt, and a.mp3 becomes a.mp3.txt. What lies in a folder keeps its place:
  `transcribe days --out DIR` makes DIR/monday/a.wav.txt of days/monday/a.wav. Results that would
  still have the same name get the parent folder's: x/a.wav.txt and y/a.wav.txt.
  Running again replaces the results of the same recording, never those of another one; which
  recording a result was made from is kept in DIR/.sensevoice-sources.
  Without --out, one transcript, or several as txt, is printed; all else goes to the current folder.
  Folders are searched for sound and video files at any depth; hidden ones are passed over.

exit codes: 0 all were transcribed, 1 some failed (named on stderr), 2 usage, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; SystemExit (2) on wrong usage."""
    arguments = make_parser().parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # any file name can be printed
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()
    except SenseVoiceError as error:
        complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return BROKEN_PIPE
    return code


def _discard_stdout() -> None:
    """Let Python's last flush of stdout go nowhere, since nobody reads it any more."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# The commands and their options -------------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="sensevoice",
        description="What was said, in which language, with which emotion, and what else was heard.",
        epilog="SENSEVOICE_* variables set the defaults; `sensevoice COMMAND --help` names them.",
    )
    parser.add_argument("--version", action="version", version=f"sensevoice {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_transcribe(commands)
    _add_download(commands)
    add_command(commands, "serve", serve, "serve the page and the HTTP service", server.OPTIONS)
    info = add_command(
        commands, "info", show_info, "versions, devices, and the model with its terms", MODEL_OPTIONS
    )
    info.add_argument("--json", action="store_true", help="as JSON")
    measure = add_command(
        commands, "bench", bench, "measure how fast this machine is", (*MODEL_OPTIONS, "lang")
    )
    measure.add_argument(
        "recording", nargs="?", type=Path, metavar="FILE", help="time this recording [default: noise]"
    )
    return parser


def add_command(
    commands: Any, name: str, run: Callable[..., int], purpose: str, settings: Iterable[str] = (), **kind: Any
) -> argparse.ArgumentParser:
    """A command with options for these settings; `run` takes the parsed arguments."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.", allow_abbrev=False, **kind
    )
    add_settings_options(parser, settings)
    parser.set_defaults(run=run, parser=parser)
    return parser


def _add_transcribe(commands: Any) -> None:
    parser = add_command(
        commands,
        "transcribe",
        transcribe,
        "transcribe recordings, and whole folders of them",
        epilog=RESULTS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE_OR_FOLDER", help="sound or video")
    _add_result_options(parser)
    _add_recognition_options(parser)
    add_settings_options(parser.add_argument_group("model"), MODEL_OPTIONS)


def _add_result_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("results")
    names = ",".join(EXPORTERS)
    group.add_argument(
        *("-f", "--format"), dest="formats", type=parse_formats, default=("txt",), metavar="FORMATS",
        help=f"one or more of {names}, with commas between them [default txt]",
    )  # fmt: skip
    group.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="folder for the results, made if missing"
    )
    note = f"language of the tags' labels; auto is {DEFAULT_LANG}"
    add_settings_option(group, "lang", choices=LANGS, note=note)
    group.add_argument("--show-neutral", action="store_true", help="show the emotion “neutral” too")
    group.add_argument("--show-speech", action="store_true", help="show the event “speech” too")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress, no summary; only what failed")


def _add_recognition_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("recognition")
    add_settings_option(group, "language", "-l", note="what is spoken")
    group.add_argument(
        "--allow", dest="allowed_languages", type=parse_languages, default=(), metavar="LANGUAGES",
        help=f"with -l auto: consider only these of {','.join(SPOKEN_LANGUAGES)}, with commas between them",
    )  # fmt: skip
    group.add_argument(
        "--no-itn", dest="use_itn", action="store_false", help="no punctuation, numbers as words"
    )
    group.add_argument(
        "--no-vad", dest="use_vad", action="store_false", help="recognise silence too; for short clips"
    )
    group.add_argument("--ban-emo-unk", action="store_true", help="always name an emotion, never “unknown”")
    group.add_argument(
        "--emotion-threshold", type=parse_probability, default=TranscribeOptions.emotion_threshold,
        metavar="P", help="an emotion less probable than this is “uncertain”, 0 to 1 [default %(default)s]",
    )  # fmt: skip
    add_settings_option(group, "max_duration_s")


def parse_formats(names: str) -> tuple[str, ...]:
    """`txt,json` -> ("txt", "json"), each once; the parser's error for an unknown one names the choices."""
    formats = _split(names)
    for name in formats:
        if name not in EXPORTERS:
            raise argparse.ArgumentTypeError(str(UnknownFormatError(name, EXPORTERS)))
    return formats


def parse_languages(names: str) -> tuple[str, ...]:
    """`zh,en` -> ("zh", "en"), each once; the parser's error for an unknown one names the choices."""
    languages = _split(names)
    for name in languages:
        if name not in SPOKEN_LANGUAGES:
            raise argparse.ArgumentTypeError(str(UnknownLanguageError(name, SPOKEN_LANGUAGES)))
    return languages


def _split(names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip().lower() for name in names.split(",")))


def parse_probability(value: str) -> float:
    """A number from 0 to 1."""
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{value!r} is no number from 0 to 1")
    return number


def _add_download(commands: Any) -> None:
    parser = add_command(
        commands,
        "download",
        download,
        "fetch the official model, or another one",
        ("hub", "offline"),
    )
    parser.add_argument(
        "model_id", nargs="?", metavar="MODEL", help="hub id [default: the official model and its VAD]"
    )


# sensevoice transcribe ----------------------------------------------------------------------------


def transcribe(arguments: argparse.Namespace) -> int:
    """Transcribe one recording after another; one that cannot be used does not keep back the others."""
    settings = read_settings(arguments.parser, arguments)
    options = _options(arguments, settings)
    recordings, faults = find_recordings(arguments.paths)
    if not recordings and all(path.is_dir() for path in arguments.paths):
        arguments.parser.error(" ".join(map(str, faults)))
    batch = Batch(
        recordings,
        arguments.formats,
        settings.lang if settings.lang in LANGS else DEFAULT_LANG,
        options,
        _output(arguments, len(recordings)),
    )
    for fault in faults:
        complain(str(fault))
    failed = run_batch(batch, settings, quiet=arguments.quiet) if recordings else 0
    return FAILED if failed or faults else OK


def _options(arguments: argparse.Namespace, settings: Settings) -> TranscribeOptions:
    if arguments.allowed_languages and settings.language != "auto":
        arguments.parser.error(f"argument --allow: needs -l auto, not {settings.language}")
    return TranscribeOptions(
        language=settings.language,
        allowed_languages=arguments.allowed_languages,
        use_itn=arguments.use_itn,
        use_vad=arguments.use_vad,
        ban_emo_unk=arguments.ban_emo_unk,
        emotion_threshold=arguments.emotion_threshold,
        show_neutral=arguments.show_neutral,
        show_speech=arguments.show_speech,
        max_duration_s=settings.max_duration_s,
    )


def _output(arguments: argparse.Namespace, count: int) -> OutputFolder | None:
    """The folder for the results; None if they are printed."""
    formats: tuple[str, ...] = arguments.formats
    if arguments.out is None and len(formats) == 1 and (count == 1 or formats == ("txt",)):
        return None
    try:
        return OutputFolder(arguments.out or Path())
    except OSError as error:
        return arguments.parser.error(f"argument --out: {sentence(error)}")  # type: ignore[no-any-return]


# The other commands -------------------------------------------------------------------------------


def download(arguments: argparse.Namespace) -> int:
    """Fetch the official model and its VAD, or one model by its id; print the folders."""
    from sensevoice import hub

    settings = read_settings(arguments.parser, arguments)
    start_logging(settings.log_level)
    source = hub.find_hub(settings.hub)
    for model_id in [arguments.model_id] if arguments.model_id else [source.asr, source.vad]:
        print(_fetch(model_id, source, offline=settings.offline), flush=True)
    return OK


def _fetch(model_id: str, source: Any, *, offline: bool) -> Path:
    """A model's folder; what is cached whole needs no network if there is none to be had."""
    from sensevoice import hub
    from sensevoice.errors import HubUnreachableError

    try:
        if offline:
            raise HubUnreachableError(source.name, "offline mode is on")
        hub.probe(source, model_id, CONNECT_TIMEOUT_S)  # the clients would try for minutes
        return hub.download(model_id, source.name)
    except HubUnreachableError:
        if (folder := hub.cached(model_id, source.name)) is None:
            raise
        return folder


def serve(arguments: argparse.Namespace) -> int:
    """Serve the page and the HTTP service until interrupted."""
    return server.run(read_settings(arguments.parser, arguments))


def bench(arguments: argparse.Namespace) -> int:
    """Print how long speech detection and recognition take here, or all of one recording."""
    from sensevoice.apps.bench import bench_report

    settings = read_settings(arguments.parser, arguments)
    start_logging(settings.log_level)
    lang = settings.lang if settings.lang in LANGS else DEFAULT_LANG
    for line in bench_report(settings, arguments.recording, lang):
        print(line, flush=True)
    return OK


def show_info(arguments: argparse.Namespace) -> int:
    """Print versions, devices and the model with its terms; 1 if the model or the device cannot be used."""
    settings = read_settings(arguments.parser, arguments)
    start_logging(settings.log_level)
    from sensevoice.runtime import check_libraries

    check_libraries()
    from sensevoice.apps.about import describe_installation, has_error, render_installation

    report = describe_installation(settings)
    if arguments.json:
        print(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        print(render_installation(report), end="")
    return FAILED if has_error(report) else OK
