"""Where a Redis is, in every form that is understood: one server, Sentinel, Redis Cluster; with TLS and a user or not.

======================================================  ========================================================
``redis://[user:password@]host[:port][/db]``             one server; ``rediss://`` with TLS, ``unix://path``
``redis+sentinel://[user:password@]host[:port],.../name[/db]``  the master that Sentinel calls ``name``
``redis+cluster://[user:password@]host[:port],...``      a cluster, of which these nodes are asked first
======================================================  ========================================================

The last two with TLS: ``rediss+sentinel://`` and ``rediss+cluster://``. User and password stand in the URL or in
settings of their own; the URL's come first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

EXPECTED = (
    "expected redis://[user:password@]host[:port][/db], rediss:// likewise, unix://path, "
    "redis+sentinel://host[:port],.../name[/db] or redis+cluster://host[:port],..."
)
SCHEME = re.compile(r"(redis|rediss)(\+sentinel|\+cluster)?|unix")
DEFAULT_PORTS = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_HOST = re.compile(r"(\[[0-9a-fA-F:.%\w]+\]|[^\s:\[\]/,@]+)(?::(\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for TLS, PEM: the authority that signed the server's certificate (None: those the system trusts), and the
    certificate and key by which it knows us (None: it does not ask)."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """One Redis. ``url`` may hold a password, so it is not shown."""

    kind: str
    """``single``, ``sentinel`` or ``cluster``."""
    url: str = field(repr=False)
    hosts: tuple[tuple[str, int], ...] = ()
    """The servers to ask first; empty for a single one, which is where its URL says."""
    service: str = ""
    """What Sentinel calls the master."""
    database: int = 0
    secure: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: Tls = Tls()

    @classmethod
    def parse(
        cls,
        url: str,
        *,
        username: str = "",
        password: str = "",
        sentinel_username: str = "",
        sentinel_password: str = "",
        tls: Tls | None = None,
    ) -> Address:
        """An address from its URL; what else is given holds where the URL does not say it. Raises ValueError."""
        scheme, _, rest = url.partition("://")
        if not SCHEME.fullmatch(scheme) or not rest or re.search(r"\s", url):
            raise ValueError(EXPECTED)
        kind = scheme.partition("+")[2] or "single"
        hosts: tuple[tuple[str, int], ...] = ()
        service, database = "", 0
        if kind == "single":
            user, secret = _single(url, scheme)
        else:
            userinfo, _, where = rest.rpartition("@")
            name, colon, word = userinfo.partition(":")
            user, secret = unquote(name), unquote(word) if colon else ""
            listed, _, path = where.partition("/")
            hosts = tuple(_host(each, DEFAULT_PORTS[kind]) for each in listed.split(","))
            if kind == "sentinel":
                service, _, number = path.partition("/")
                if not re.fullmatch(r"[\w.-]+", service) or not re.fullmatch(r"\d*", number):
                    raise ValueError(EXPECTED)
                database = int(number or 0)
            elif path.strip("/") not in ("", "0"):
                raise ValueError(f"a cluster has database 0 only; {EXPECTED}")
        return cls(
            kind, url, hosts, service, database, scheme.startswith("rediss"),
            user or username or None, secret or password or None,
            sentinel_username or None, sentinel_password or None, tls or Tls(),
        )  # fmt: skip

    def options(self) -> dict[str, Any]:
        """Who we are and how the connection is secured, as redis-py's clients take it."""
        found: dict[str, Any] = {"username": self.username, "password": self.password}
        return {**{name: value for name, value in found.items() if value is not None}, **self.security()}

    def security(self) -> dict[str, Any]:
        """How the connection is secured, as redis-py's clients take it."""
        if not self.secure:
            return {}
        files = {"ssl_ca_certs": self.tls.ca, "ssl_certfile": self.tls.cert, "ssl_keyfile": self.tls.key}
        return {name: str(path) for name, path in files.items() if path is not None}


def _single(url: str, scheme: str) -> tuple[str, str]:
    """(user, password) of a URL of one server. Raises ValueError when it is not one."""
    try:
        parts = urlsplit(url)
        complete = bool(parts.path if scheme == "unix" else parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        raise ValueError(EXPECTED) from None
    if not complete or (scheme != "unix" and not re.fullmatch(r"(/\d*)?", parts.path)):
        raise ValueError(EXPECTED)
    return unquote(parts.username or ""), unquote(parts.password or "")


def _host(text: str, port: int) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    number = int(match[2] or port) if match else 0
    if match is None or not 0 < number < 65_536:
        raise ValueError(EXPECTED)
    return match[1].strip("[]"), number
