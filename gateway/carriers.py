"""The phone companies that a call may come from: how each signs its requests, and is told to connect a call."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape, quoteattr

from gateway.protocols.dialect import TELNYX, TWILIO, Dialect

if TYPE_CHECKING:
    from gateway.settings import GatewaySettings

OLDEST_S = 300
"""Seconds after which a request that Telnyx has signed does not count any more."""
MISSING = "needs the package cryptography: pip install 'bargein[telnyx]'"


class Carrier(ABC):
    """One company. Its doors are ``path``/voice, ``path``/after and the WebSocket ``path``."""

    path: str
    dialect: Dialect
    variable: str
    """The setting that its signatures are checked with."""

    @abstractmethod
    def secret(self, settings: GatewaySettings) -> str:
        """What its signatures are checked with; empty: they are not."""

    @abstractmethod
    def signed(self, secret: str, headers: Mapping[str, str], url: str, body: bytes, now: float) -> bool:
        """Whether it has signed a request to ``url``; ``now`` in seconds since 1970."""

    @abstractmethod
    def connect(self, socket: str, after: str, inner: str) -> str:
        """Markup that connects a call to the address ``socket`` and asks at ``after`` what to do then."""


class Twilio(Carrier):
    path, dialect, variable = "/twilio", TWILIO, "TWILIO_AUTH_TOKEN"

    def secret(self, settings: GatewaySettings) -> str:
        return settings.twilio_auth_token.get_secret_value()

    def signed(self, secret: str, headers: Mapping[str, str], url: str, body: bytes, now: float) -> bool:
        given = headers.get("x-twilio-signature", "")
        fields = parse_qsl(body.decode(), keep_blank_values=True)
        return hmac.compare_digest(given.encode(), signature(secret, url, fields).encode())

    def connect(self, socket: str, after: str, inner: str) -> str:
        return f"<Connect action={quoteattr(after)}><Stream url={quoteattr(socket)}>{inner}</Stream></Connect>"


class Telnyx(Carrier):
    path, dialect, variable = "/telnyx", TELNYX, "TELNYX_PUBLIC_KEY"

    def secret(self, settings: GatewaySettings) -> str:
        return settings.telnyx_public_key

    def signed(self, secret: str, headers: Mapping[str, str], url: str, body: bytes, now: float) -> bool:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        at, given = headers.get("telnyx-timestamp", ""), headers.get("telnyx-signature-ed25519", "")
        try:
            key = Ed25519PublicKey.from_public_bytes(base64.b64decode(secret))
            key.verify(base64.b64decode(given, validate=True), f"{at}|".encode() + body)
            return abs(now - float(at)) <= OLDEST_S
        except (InvalidSignature, ValueError):
            return False

    def connect(self, socket: str, after: str, inner: str) -> str:
        # Telnyx' <Connect> has no action: what stands behind it is done when the stream has ended.
        form = 'track="inbound_track" codec="PCMU" bidirectionalMode="rtp" bidirectionalCodec="PCMU"'
        return (
            f"<Connect><Stream url={quoteattr(socket)} {form}>{inner}</Stream></Connect>"
            f'<Redirect method="POST">{escape(after)}</Redirect>'
        )


CARRIERS: tuple[Carrier, ...] = (Twilio(), Telnyx())


def signature(token: str, url: str, fields: list[tuple[str, str]]) -> str:
    """What Twilio signs a request with: base64 of HMAC-SHA1 over the URL and the sorted fields."""
    text = url + "".join(name + value for name, value in sorted(set(fields)))
    return base64.b64encode(hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()).decode()


def problem(public_key: str) -> str:
    """Why nothing can be checked with Telnyx' ``public_key``; empty when it can."""
    try:
        usable = len(base64.b64decode(public_key, validate=True)) == 32
    except (binascii.Error, ValueError):
        usable = False
    if not usable:
        return "expected the account's public key as Telnyx shows it: base64 of 32 bytes"
    return "" if importlib.util.find_spec("cryptography") else MISSING
