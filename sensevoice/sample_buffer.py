"""The last samples of an endless recording, addressed by their place in all of it."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]


class SampleBuffer:
    """Holds the blocks that it is given, and copies none: nobody is to write to them any more."""

    def __init__(self) -> None:
        self.start = self.end = 0  # what is held: [start, end)
        self._blocks = deque[Samples]()
        self._origin = 0  # the place of the first block's first sample

    def append(self, *blocks: Samples) -> None:
        """Add the samples that follow, [n] each."""
        for block in blocks:
            if len(block):
                self._blocks.append(block)
                self.end += len(block)

    def parts(self, start: int, end: int) -> list[Samples]:
        """The samples [start, end), as far as they have come, in one or several pieces of the blocks."""
        if start < self.start:
            raise IndexError(f"sample {start} was dropped: {self.start} is the first that is held")
        found, first = [], self._origin
        for block in self._blocks:
            if first >= end:
                break
            if first + len(block) > start:
                found.append(block[max(0, start - first) : end - first])
            first += len(block)
        return found

    def cut(self, start: int, end: int) -> Samples:
        """The same in one piece: a part of a block, or a copy if there are several."""
        parts = self.parts(start, end)
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.float32), *parts])

    def drop_before(self, start: int) -> None:
        """Forget what lies before this place."""
        self.start = min(max(start, self.start), self.end)
        while self._blocks and self._origin + len(self._blocks[0]) <= self.start:
            self._origin += len(self._blocks.popleft())
