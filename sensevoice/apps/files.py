"""Which files a batch reads, and how it names and writes what it makes of them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sensevoice.errors import AudioError, NoSuchAudioError
from sensevoice.exporters import EXPORTERS

SOURCES_FILE = ".sensevoice-sources"

# What a folder is searched for; a file named by the user may have any suffix. Not .ts, which is code too.
MEDIA_SUFFIXES = frozenset(
    (
        *(".wav", ".wave", ".w64", ".aif", ".aiff", ".aifc", ".caf", ".au", ".flac", ".ape", ".wv"),
        *(".mp3", ".mp2", ".m4a", ".m4b", ".aac", ".ac3", ".ogg", ".oga", ".opus", ".wma", ".amr", ".mka"),
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".weba", ".avi", ".wmv", ".flv", ".mpg", ".mpeg"),
        *(".3gp", ".3g2", ".ogv", ".vob", ".m2ts"),
    )
)


@dataclass(frozen=True)
class Recording:
    """One input, and the name of its results below the output folder: `a.wav`, `monday/a.wav`."""

    path: Path
    name: str


def find_recordings(paths: Iterable[Path]) -> tuple[list[Recording], list[AudioError]]:
    """The recordings that the files and folders hold, each once, and what is wrong with the others.

    Results are named after the file, and in a folder after its place there; those that would clash (in
    any case, for file systems that ignore it) get as many parent folders as tell them apart.
    """
    found: dict[Path, Recording] = {}
    faults: list[AudioError] = []
    for path in paths:
        try:
            for recording in _recordings_at(path, faults.append):
                found.setdefault(_absolute(recording.path), recording)
        except OSError as error:
            faults.append(_unreadable(error))
    depths = [len(Path(recording.name).parts) for recording in found.values()]
    names = _distinct_names(list(found), depths)
    return [replace(old, name=name) for old, name in zip(found.values(), names, strict=True)], faults


def _recordings_at(path: Path, report: Callable[[AudioError], None]) -> Iterator[Recording]:
    if path.is_dir():
        for file in _media_files(path, report):
            yield Recording(file, file.relative_to(path).as_posix())
    elif path.exists():
        yield Recording(path, path.name)
    else:
        report(NoSuchAudioError(str(path)))


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (resolve() would name the results after a link's target)


def _media_files(folder: Path, report: Callable[[AudioError], None]) -> Iterator[Path]:
    """The sound and video files in a folder, by their suffix and in order; nothing hidden."""
    found = 0
    for parent, folders, files in os.walk(folder, onerror=lambda error: report(_unreadable(error))):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in MEDIA_SUFFIXES:
                found += 1
                yield Path(parent, name)
    if not found:
        report(AudioError(f"The folder {folder} holds no sound or video file.", name=str(folder)))


def _unreadable(error: OSError) -> AudioError:
    return AudioError(f"{error.filename} cannot be read: {error.strerror}.", name=error.filename)


def _distinct_names(paths: Sequence[Path], depths: list[int]) -> list[str]:
    """Each path's last `depths` parts, or more of them where paths would be called the same."""
    while True:
        names = ["/".join(path.parts[-depth:]) for path, depth in zip(paths, depths, strict=True)]
        times = Counter(name.casefold() for name in names)
        clashes = (i for i, name in enumerate(names) if times[name.casefold()] > 1)
        clashing = [i for i in clashes if depths[i] + 1 < len(paths[i].parts)]  # the first part is the root
        if not clashing:
            return names
        for i in clashing:
            depths[i] += 1


class OutputFolder:
    """Where results go; it remembers which recording each name stands for, in a hidden file.

    So a later run replaces the results of the same recording only, and those of one that is gone.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder if it is missing; OSError if it cannot be had."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._sources = dict(_read_sources(folder / SOURCES_FILE))

    def path(self, recording: Recording, format_name: str) -> Path:
        """Where one result goes: `DIR/a.wav.srt`."""
        return self.folder / f"{recording.name}{EXPORTERS[format_name].suffix}"

    def claim(self, recording: Recording) -> None:
        """Take the recording's name; FileExistsError if another's results are there."""
        source = str(_absolute(recording.path))
        owner = self._sources.get(recording.name, source)
        if owner != source and Path(owner).exists() and (taken := self._results(recording)):
            raise FileExistsError(
                f"{taken[0]} was made from {owner} and is kept. "
                "Choose another output folder, or give both recordings in one run."
            )
        if self._sources.get(recording.name) != source:
            self._sources[recording.name] = source
            with (self.folder / SOURCES_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"name": recording.name, "source": source}) + "\n")

    def _results(self, recording: Recording) -> list[Path]:
        return [path for name in EXPORTERS if (path := self.path(recording, name)).exists()]

    def write(self, recording: Recording, format_name: str, content: str) -> Path:
        """Write one result, whole or not at all."""
        path = self.path(recording, format_name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
        return path


def _read_sources(file: Path) -> Iterator[tuple[str, str]]:
    """Name and source by line, the newest last; what is damaged is passed over."""
    if not file.exists():
        return
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            yield str(entry["name"]), str(entry["source"])
        except (ValueError, TypeError, KeyError):
            continue


def write_whole(path: Path, content: str) -> None:
    """Write UTF-8 text; whatever interrupts it, `path` holds what it held before, or all of the new."""
    part = path.with_name(f".sensevoice-{os.getpid()}.part")
    try:
        part.write_text(content, encoding="utf-8", newline="\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
