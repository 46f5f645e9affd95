"""How long a client may stay, how long say nothing, and how much at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds, 0: none."""

    session: float = 0.0
    """From the beginning to the end."""
    idle: float = 0.0
    """Without any message from the client."""
    message: int = 16 << 20
    """Bytes of one message."""

    def due(self, began: float, heard: float) -> float | None:
        """When the client is to go, as things stand; None: never."""
        ends = [began + self.session] if self.session else []
        ends += [heard + self.idle] if self.idle else []
        return min(ends, default=None)

    def reached(self, began: float, heard: float, now: float) -> tuple[str, str] | None:
        """(code, message) of the limit that is reached at ``now``."""
        if self.session and now >= began + self.session:
            return "session_expired", f"Your session hit the maximum duration of {self.session / 60:g} minutes."
        if self.idle and now >= heard + self.idle:
            return "session_idle", f"The session has ended: nothing was received for {self.idle:g} seconds."
        return None
