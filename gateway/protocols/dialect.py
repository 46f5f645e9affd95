"""What tells the phone companies' media streams apart: their messages are the same but for some names.

Each sends ``start``, ``media``, ``mark``, ``dtmf`` and ``stop``, and takes ``media``, ``mark`` and ``clear``.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.codecs import PCMA, PCMU, Codec

ENCODINGS: dict[str, Codec] = {"audio/x-mulaw": PCMU, "PCMU": PCMU, "PCMA": PCMA}
"""What a caller's audio may come in, 8 kHz each, by its name in ``start``."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One company's way of saying it."""

    stream: str
    """The field of a message that names the stream."""
    call: str
    """The field of ``start`` that names the call."""
    parameters: str
    """The field of ``start`` with the custom parameters."""
    form: str
    """The field of ``start`` with the audio's encoding."""
    addressed: bool
    """Whether what is sent names the stream too."""
    shortest: int = 0
    """Samples of a media message at least."""


TWILIO = Dialect("streamSid", "callSid", "customParameters", "mediaFormat", addressed=True)
"""Twilio's Media Streams."""
TELNYX = Dialect("stream_id", "call_control_id", "custom_parameters", "media_format", addressed=False, shortest=160)
"""Telnyx' media streaming in its bidirectional mode ``rtp``, where a message has 20 ms to 30 s."""
