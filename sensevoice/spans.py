"""A stretch of a recording in whole milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

SAMPLE_RATE = 16_000  # of everything after decoding
SAMPLES_PER_MS = SAMPLE_RATE // 1000


@dataclass(frozen=True)
class Span:
    """From `start_ms` up to, not including, `end_ms`; ValueError unless 0 <= start_ms <= end_ms."""

    start_ms: int
    end_ms: int

    def __post_init__(self) -> None:
        if not 0 <= self.start_ms <= self.end_ms:
            raise ValueError(f"a span cannot run from {self.start_ms} ms to {self.end_ms} ms")

    @property
    def duration_ms(self) -> int:
        """How long it lasts."""
        return self.end_ms - self.start_ms
