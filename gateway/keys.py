"""Who may call: API keys from the environment or a file, and ephemeral ones that stand in Redis until they expire."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bus.keys import secret_key
from bus.streams import Bus

SHORTEST = 8
"""Characters of a key at least."""
EPHEMERAL = "ek_"
PHONE = "(phone)"
"""The name under which phone calls have their sessions, and their tickets: no API key can be called so, and none of the
others may go on with such a session."""
_NAMED = re.compile(r"(?:([\w.-]+)[:=])?(\S+)")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the name of the key, and the session object that an ephemeral key brings along."""

    name: str = ""
    session: dict[str, Any] = field(default_factory=dict)
    ephemeral: bool = False


class ApiKeys:
    """The keys that are valid for good, each with a name for the log and the limits."""

    def __init__(self, keys: dict[str, str]) -> None:
        """``keys``: name -> key. Without any, everybody may call."""
        self._digests = {name: _digest(key) for name, key in keys.items()}

    @property
    def required(self) -> bool:
        """Whether a key is needed at all."""
        return bool(self._digests)

    def name_of(self, key: str) -> str:
        """The name of a key, empty for one that is not known. Takes as long for a wrong one as for any."""
        given, found = _digest(key), ""
        for name, digest in self._digests.items():
            if hmac.compare_digest(given, digest):
                found = name
        return found


def read_keys(listed: str, file: Path | None) -> dict[str, str]:
    """The keys of API_KEYS and of API_KEYS_FILE: separated by commas, spaces or lines, each with or without a name
    before it (``laptop:KEY``); in the file ``#`` begins a comment. Raises ValueError, which names no key.
    """
    found = _keys(listed, "API_KEYS", {})
    if file is None:
        return found
    where = f"API_KEYS_FILE={file}"
    try:
        text = re.sub(r"(?m)#.*$", "", file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    with_file = _keys(text, where, found)
    if len(with_file) == len(found):
        raise ValueError(f"{where}: holds no key")
    return with_file


def _keys(text: str, where: str, before: dict[str, str]) -> dict[str, str]:
    found = dict(before)
    for number, word in enumerate(filter(None, re.split(r"[\s,]+", text)), 1):
        match = _NAMED.fullmatch(word)
        name, key = (match.group(1) or f"key-{len(found) + 1}", match.group(2)) if match else ("", "")
        if len(key) < SHORTEST or not (key.isascii() and key.isprintable()) or name in found:
            raise ValueError(
                f"{where}: key number {number}: expected NAME:KEY or KEY, names that differ, keys of at least "
                f"{SHORTEST} printable ASCII characters"
            )
        found[name] = key
    return found


async def issue(bus: Bus, caller: Caller, session: dict[str, Any], seconds: int) -> tuple[str, int]:
    """An ephemeral key that any gateway takes for ``seconds``; (the key, when it expires in seconds since 1970)."""
    key = EPHEMERAL + secrets.token_urlsafe(32)
    told = json.dumps({"name": caller.name, "session": session})
    # Only its digest is kept: who reads Redis cannot call with it.
    await bus.commands.set(secret_key(_digest(key).hex()), told, ex=seconds)
    return key, int(time.time()) + seconds


async def issued(bus: Bus, key: str, *, once: bool = False) -> Caller | None:
    """Who an ephemeral key was issued to; None when there is no such key (any more). ``once``: it is used up.

    Raises what a lost server does.
    """
    if not key.startswith(EPHEMERAL):
        return None
    name = secret_key(_digest(key).hex())
    told = await (bus.commands.getdel(name) if once else bus.commands.get(name))
    return None if told is None else Caller(**json.loads(told), ephemeral=True)


def _digest(key: str) -> bytes:
    # A stranger's key may hold half a surrogate pair.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
