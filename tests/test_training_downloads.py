from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from training import downloads

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb builds the package")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Debian package of two sounds, one of them a link out of it, and a text, in place of what is downloaded."""
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: made\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <nobody@localhost>\nDescription: made\n"
    )
    sounds = tree / "usr/share/made"
    sounds.mkdir(parents=True)
    (sounds / "laugh.wav").write_bytes(b"ha ha")
    (sounds / "other.wav").symlink_to("/usr/share/elsewhere/other.wav")
    (sounds / "README").write_text("a laugh")
    archive = tmp_path / "made.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(tree), str(archive)], check=True)

    @contextmanager
    def downloaded(packages: Sequence[str]) -> Iterator[list[Path]]:
        assert packages == ["made"]
        yield [archive]

    monkeypatch.setattr(downloads, "debian_archives", downloaded)
    return archive


@pytest.mark.parametrize(
    ("ends", "names"),
    [((), ["README", "laugh.wav", "other.wav"]), ((".wav", ".ogg"), ["laugh.wav", "other.wav"])],
)
def test_a_package_is_unpacked_as_far_as_it_is_wanted(
    package: Path, tmp_path: Path, ends: Sequence[str], names: Sequence[str]
) -> None:
    downloads.unpack_debian(tmp_path / "out", ["made"], ends)
    folder = tmp_path / "out/usr/share/made"
    assert sorted(path.name for path in folder.iterdir()) == list(names)
    assert (folder / "laugh.wav").read_bytes() == b"ha ha"


def test_a_damaged_package_is_an_error(package: Path, tmp_path: Path) -> None:
    package.write_bytes(package.read_bytes()[:100])
    with pytest.raises((subprocess.CalledProcessError, tarfile.TarError)):
        downloads.unpack_debian(tmp_path / "out", ["made"])
