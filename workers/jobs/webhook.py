"""The job that tells somebody else's server of a call that was written down.

One POST to ``WEBHOOK_URL``, signed as https://www.standardwebhooks.com describes, so any of its libraries verifies it::

    webhook-id: call.recorded:<session>           the same at every attempt: whoever has seen it has it already
    webhook-timestamp: <seconds since 1970>
    webhook-signature: v1,<base64 of HMAC-SHA256(secret, id.timestamp.body)>

    {"type": "call.recorded", "data": {"session", "seconds", "messages", "audio"}}

Any answer of 200 to 299 ends it; everything else is tried again, at growing intervals, for a day (``queue.py``).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import time
from pathlib import Path
from typing import Annotated

import httpx2
from pydantic import AfterValidator, Field, SecretStr, model_validator

from bus.keys import is_session
from bus.settings import load
from workers.jobs.recording import RecordingSettings, audio_file

log = logging.getLogger("workers.jobs")

TIMEOUT_S = 15.0
ENCODED = "whsec_"
"""Before a secret that is written in base64, as the standard has it; any other is taken as it is."""


class NotDelivered(Exception):
    """The receiver did not say that it has it. Never holds the address or the secret."""


def _address(url: str) -> str:
    try:
        parts = httpx2.URL(url)
        valid = not url or (parts.scheme in ("http", "https") and bool(parts.host) and not parts.userinfo)
    except (httpx2.InvalidURL, ValueError):
        valid = False
    if not valid:
        raise ValueError("expected http://host/path or https://, without user and password")
    return url


class WebhookSettings(RecordingSettings):
    """Who is told of a recorded call."""

    webhook_url: Annotated[str, AfterValidator(_address)] = Field(default="", repr=False)
    """Who is told of each recorded call, by a signed POST. Empty: nobody."""
    webhook_secret: SecretStr = SecretStr("")
    """The key of the signature: 24 characters or more."""
    webhook_secret_file: Path | None = None
    """A file whose first word is the secret."""

    @model_validator(mode="after")
    def _has_a_secret(self) -> WebhookSettings:
        if self.webhook_url and not self.secret():
            raise ValueError("WEBHOOK_URL needs WEBHOOK_SECRET or WEBHOOK_SECRET_FILE: 24 characters or more")
        return self

    def secret(self) -> bytes:
        """The key of the signature, empty for none that will do. Raises ValueError when it cannot be read."""
        text = self.webhook_secret.get_secret_value().strip()
        if not text and self.webhook_secret_file is not None:
            try:
                text = next(iter(self.webhook_secret_file.read_text().split()), "")
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"WEBHOOK_SECRET_FILE cannot be read: {type(error).__name__}") from None
        if len(text) < 24:
            return b""
        if not text.startswith(ENCODED):
            return text.encode()
        try:
            return base64.b64decode(text.removeprefix(ENCODED), validate=True)
        except binascii.Error:
            raise ValueError(f"the webhook's secret begins with {ENCODED}, and what follows is not base64") from None


def signature(secret: bytes, name: str, at: int, body: bytes) -> str:
    """The value of ``webhook-signature``."""
    mac = hmac.new(secret, b"%s.%d.%s" % (name.encode(), at, body), hashlib.sha256)
    return "v1," + base64.b64encode(mac.digest()).decode()


def deliver(session: str) -> None:
    """Tell of one call. Raises ValueError for a malformed id, and NotDelivered, upon which it is to be tried again."""
    settings = load(WebhookSettings)
    if not is_session(session):
        raise ValueError(f"not a session id: {session[:40]!r}; expected s<shard>-<hex>")
    if not settings.webhook_url:
        return
    recorded = json.loads((settings.recordings_dir / f"{session}.json").read_text())
    data = {**recorded, "audio": audio_file(settings, session).name}
    body = json.dumps({"type": "call.recorded", "data": data}, ensure_ascii=False, separators=(",", ":")).encode()
    name, at = f"call.recorded:{session}", int(time.time())
    headers = {
        "content-type": "application/json", "webhook-id": name, "webhook-timestamp": str(at),
        "webhook-signature": signature(settings.secret(), name, at, body),
    }  # fmt: skip
    try:
        answer = httpx2.post(settings.webhook_url, content=body, headers=headers, timeout=TIMEOUT_S)
    except httpx2.HTTPError as error:
        raise NotDelivered(f"{session}: the webhook was not reached: {type(error).__name__}") from None
    if not answer.is_success:
        raise NotDelivered(f"{session}: the webhook answered {answer.status_code}; expected 200 to 299")
    log.info("%s: the webhook has it (%d)", session, answer.status_code)
