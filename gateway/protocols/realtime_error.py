"""What a client sent that cannot be done."""

from __future__ import annotations


class ProtocolError(Exception):
    """What a client sent cannot be done: ``code``, ``message`` and ``param`` as the protocol names them."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.event_id: str | None = None
        """The client's event that was wrong, where it is known here."""
