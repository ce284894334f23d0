"""Packs real recordings as 16 kHz int16: CC0 music loops to train on, and clips of events to test on only.

Stage "fetch" gives it the `samples/` of the npm package `supersonic-scsynth-samples` 0.84.2, and the Debian packages
`libreoffice-common` and `hedgewars-data` unpacked; music.npz, music_test.npz and test_real.npz come out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from sensevoice.spans import SAMPLE_RATE

LOOP_LIMIT_S = 5.0
TRAIN_LOOPS = (  # the Amen break is left out: its uploader cannot have owned it
    *("loop_breakbeat", "loop_compus", "loop_electric", "loop_industrial", "loop_perc1", "loop_perc2"),
    *(
        "loop_weirdo",
        "arovane_beat_a",
        "arovane_beat_b",
        "arovane_beat_c",
        "arovane_beat_d",
        "arovane_beat_e",
    ),
    *(
        "ambi_drone",
        "ambi_glass_hum",
        "ambi_glass_rub",
        "ambi_haunted_hum",
        "ambi_lunar_land",
        "ambi_soft_buzz",
    ),
    *(
        "ambi_dark_woosh",
        "tbd_fxbed_loop",
        "tbd_pad_1",
        "tbd_pad_2",
        "tbd_pad_3",
        "tbd_pad_4",
        "tbd_highkey_c4",
    ),
    *("tbd_voctone", "guit_e_fifths", "guit_e_slide", "guit_harmonics", "bass_dnb_f", "bass_trance_c"),
    *("bass_thick_c", "bass_voxy_c", "bass_woodsy_c", "bass_hit_c", "elec_chime", "elec_bell", "elec_twang"),
    *("perc_bell", "perc_bell2", "drum_roll", "tabla_dhec", "tabla_ghe1", "tabla_na", "mehackit_phone1"),
)
TEST_LOOPS = (
    *("loop_garzul", "loop_mika", "loop_tabla", "loop_safari", "loop_mehackit1", "loop_mehackit2"),
    *("loop_drone_g_97", "ambi_piano", "ambi_choir", "guit_em9"),
)


def read_audio(path: Path) -> npt.NDArray[np.int16]:
    """Mono at 16 kHz, int16 [n], of any file that PyAV decodes."""
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    with av.open(str(path)) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])


def pack_loops(samples: Path, names: tuple[str, ...], out: Path) -> None:
    """Writes the loops' first five seconds, levelled to a peak of 0.9, under their file names."""
    loops = {}
    for name in names:
        loop = read_audio(samples / f"{name}.flac")[: int(LOOP_LIMIT_S * SAMPLE_RATE)].astype(np.float64)
        loops[name] = (loop * (0.9 * 32767 / np.abs(loop).max())).astype(np.int16)
    np.savez_compressed(out, **loops)


def pack_test_clips(root: Path, out: Path) -> None:
    """Writes real events under `Label/source` names; a voice set's clips are never to be trained on."""
    clips = {"Applause/libreoffice": read_audio(next(root.rglob("gallery/sounds/applause.wav")))}
    for label, name in (("Laughter", "Laugh.ogg"), ("Cough", "PoisonCough.ogg")):
        for path in sorted(root.rglob(f"voices/*/{name}")):
            clip = read_audio(path)
            if not any(np.array_equal(clip, other) for other in clips.values()):  # some voices share a file
                clips[f"{label}/hedgewars-{path.parent.name}"] = clip
    np.savez_compressed(out, **clips)


def pack_recordings(samples: Path, root: Path, out: Path) -> None:
    """Packs the three archives."""
    out.mkdir(parents=True, exist_ok=True)
    pack_loops(samples, TRAIN_LOOPS, out / "music.npz")
    pack_loops(samples, TEST_LOOPS, out / "music_test.npz")
    pack_test_clips(root, out / "test_real.npz")
