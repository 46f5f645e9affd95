"""A model server over HTTP: its address, the key that it asks for, what it answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
from pydantic import SecretStr

from bus.foreign import read_json
from workers.engines import EngineError


class TooLong(EngineError):
    """An answer has more bytes than it may have."""


def address_of(url: str, variable: str, path: str) -> str:
    """``url`` ending in ``/v1``, with or without ``path`` behind it. Raises EngineError, which never shows what may be
    a secret."""
    secretive = any(sign in url for sign in "@?#")
    try:
        parts = httpx2.URL(url)
        valid = parts.scheme in ("http", "https") and bool(parts.host) and not secretive
    except httpx2.InvalidURL:
        valid = False
    if not valid:
        raise EngineError(
            f"{variable}={'(hidden)' if secretive else url[:80]}: expected http://host:port/v1, without user, password "
            f"or query; a key goes into {variable.removesuffix('URL')}API_KEY_FILE"
        )
    return url.rstrip("/").removesuffix(path).removesuffix("/v1") + "/v1"


def key_of(secret: SecretStr, file: Path | None, variable: str) -> str:
    """The key, "" for none: ``secret``, else the first word in ``file``. Raises EngineError when it cannot be one, or
    the file has none."""
    key, source = secret.get_secret_value(), variable
    if not key and file is not None:
        source = f"{variable}_FILE={file}"
        try:
            key = next(iter(file.read_text().split()), "")
        except (OSError, UnicodeDecodeError) as error:
            raise EngineError(f"{source}: cannot be read: {type(error).__name__}") from error
        if not key:
            raise EngineError(f"{source}: is empty; expected the key")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise EngineError(f"{source}: expected a key of printable ASCII characters without spaces")
    return key


def reason_in(body: bytes, otherwise: str) -> str:
    """The message in an error's JSON, wherever such servers put it; nothing that they quote of the request."""
    try:
        said = read_json(body)
    except ValueError:
        return otherwise
    while not isinstance(said, str):
        if isinstance(said, dict):
            said = next((said[name] for name in ("error", "message", "detail", "msg") if said.get(name)), otherwise)
        else:
            said = said[0] if isinstance(said, list) and said else otherwise
    return " ".join(said.split())


async def body_of(pieces: AsyncIterator[bytes], most: int) -> bytes:
    """All of an answer. Raises TooLong when it has more than ``most`` bytes, whatever is behind them."""
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) > most:
            raise TooLong(f"an answer of more than {most} bytes")
    return bytes(body)
