"""The caller's audio on its way: numbered from the call's first sample, kept until the server has it for certain."""

from __future__ import annotations

from gateway.client_audio import PER_MS

KEPT_MS = 120_000
"""Audio kept at most: what is older is lost should the connection break."""


class Kept:
    """Belongs to one call. Positions count samples at 24 kHz; audio is 16-bit."""

    def __init__(self) -> None:
        self.end = 0
        """What was said so far ends here."""
        self.sent = 0
        """What was sent on the connection there is ends here."""
        self._pcm = bytearray()

    @property
    def start(self) -> int:
        """The first sample that is kept."""
        return self.end - len(self._pcm) // 2

    def add(self, pcm: bytes) -> None:
        """More was said."""
        self._pcm += pcm
        self.end += len(pcm) // 2
        self._forget(self.end - KEPT_MS * PER_MS)

    def acknowledge(self, ms: float) -> None:
        """The server has everything up to ``ms`` for certain."""
        self._forget(min(int(ms * PER_MS), self.sent))

    def rewind(self, ms: float) -> float:
        """On a new connection: the server has everything up to ``ms``, and is sent what follows; where that begins."""
        self.sent = max(self.start, min(int(ms * PER_MS), self.end))
        return self.sent / PER_MS

    def take(self, most: int) -> bytes:
        """What is to be sent next, at most so many samples."""
        self.sent = max(self.sent, self.start)
        at = (self.sent - self.start) * 2
        pcm = bytes(self._pcm[at : at + most * 2])
        self.sent += len(pcm) // 2
        return pcm

    def _forget(self, until: int) -> None:
        if until > self.start:
            del self._pcm[: (until - self.start) * 2]
