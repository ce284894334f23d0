"""Packages of Debian, PyPI and npm: downloaded and unpacked, but not installed."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def debian_archives(packages: Sequence[str]) -> Iterator[list[Path]]:
    """The .deb files of these packages, for as long as they are looked at."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "-q", "download", *packages], cwd=folder, check=True)
        yield sorted(Path(folder).glob("*.deb"))


def unpack_debian(target: Path, packages: Sequence[str]) -> None:
    """All files of these packages, under `target`."""
    target.mkdir(parents=True, exist_ok=True)
    with debian_archives(packages) as archives:
        for archive in archives:
            subprocess.run(["dpkg-deb", "-x", str(archive), str(target)], check=True)


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
