"""What a live stream's client has sent and the stream's thread has not read: a bounded pipe of bytes."""

from __future__ import annotations

import asyncio
import io
import threading
from contextlib import suppress
from typing import Any


class Inbox(io.RawIOBase):
    """Written in the event loop, read in one thread as a file that cannot be rewound.

    The writer waits while `capacity` bytes lie here, so that a client can send no faster than it is served.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.received = 0  # bytes in all
        self.aborted = False
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._room.set()
        self._pending = bytearray()
        self._ended = False
        self._changed = threading.Condition()

    # in the event loop -----------------------------------------------------------------------------

    async def put(self, data: bytes) -> None:
        """Add `data` once there is room; what comes after the end is dropped."""
        await self._room.wait()
        with self._changed:
            if self._ended:
                return
            self._pending += data
            self.received += len(data)
            if len(self._pending) >= self.capacity:
                self._room.clear()
            self._changed.notify()

    def end(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def abort(self) -> None:
        """Nobody waits for the result any more: forget everything, and wake up the reader."""
        with self._changed:
            self.aborted = self._ended = True
            self._pending.clear()
            self._changed.notify()
        self._room.set()

    # in the reader's thread ------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether there is something to read at once."""
        return bool(self._pending)

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, which stay; fewer at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or len(self._pending) >= size)
            return bytes(self._pending[:size])

    def readable(self) -> bool:
        """As a file says it."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for at least a byte; 0 at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._pending)
            size = min(len(buffer), len(self._pending))
            buffer[:size] = self._pending[:size]
            del self._pending[:size]
            is_full = len(self._pending) >= self.capacity
        if size and not is_full and not self._room.is_set():
            with suppress(RuntimeError):  # the loop has closed
                self._loop.call_soon_threadsafe(self._room.set)
        return size
