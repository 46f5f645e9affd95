"""The settings every process shares, and how any process reads its own.

A process declares a subclass of ``BusSettings`` and calls ``load`` with it. A field ``redis_url`` is the variable
``REDIS_URL``. Values come from the environment, else from a file ``redis_url`` in ``CREDENTIALS_DIRECTORY`` (systemd's
``LoadCredential=``, or a mounted secret), else from a ``.env`` file in the working directory, else from the default; an
empty value counts as absent. Values that may hold a secret are never printed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import types
import typing
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource, SettingsConfigDict

from bus.address import Address, Tls

CONFIGURATION_ERROR = 2
"""The exit code of a process whose settings are wrong: starting it again would not help."""

_SECRET_NAME = re.compile(r"secret|password|passwd|token(?!s)|credential|(^|_)key$|api_?key", re.IGNORECASE)
_USERINFO = re.compile(r"(?:(?<=://)|\A(?!.*://)).*@", re.DOTALL)
_PASSWORD_QUERY = re.compile(r"(?<=[?&]password=)[^&\s]*")
_BOUNDS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "text", SecretStr: "text", Path: "a path"}


def no_arguments(module: str, about: str | None) -> None:
    """Answer ``--help`` for a process that has all its settings from the environment; exits with 2 at any argument."""
    argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=(about or "").split("\n\n")[0],
        epilog="Its settings come from the environment or .env: `bargein config` shows them, docs/configuration.md "
        "says what each does. SIGTERM ends it.",
    ).parse_args()


def masked(text: str) -> str:
    """``text`` with the user and password of a URL in it replaced by ``***``; rather too much than too little."""
    return _PASSWORD_QUERY.sub("***", _USERINFO.sub("***@", text))


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine: ``localhost``, 127.0.0.0/8 or ``::1``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _redis_url(url: str) -> str:
    Address.parse(url)
    return url


RedisUrl = Annotated[str, AfterValidator(_redis_url)]
"""A server's address. Declare such a field with ``repr=False``: it may hold a password."""

LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(lambda v: str(v).upper())]


class Credentials(SecretsSettingsSource):
    """Files named as the fields, each with one value, in the folder that ``CREDENTIALS_DIRECTORY`` names."""

    def __init__(self, kind: type[BaseSettings]) -> None:
        super().__init__(kind, secrets_dir=os.environ.get("CREDENTIALS_DIRECTORY") or None)

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__call__().items() if value != ""}


class BusSettings(BaseSettings):
    """What every process needs to know to reach the bus."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    redis_url: RedisUrl = Field(default="redis://127.0.0.1:6379/0", repr=False)
    """Where the bus is, in one of the forms of ``bus.address`` (docs/redis.md)."""
    redis_username: str = ""
    """Who we are there, where the URL does not say it."""
    redis_password: SecretStr = SecretStr("")
    """That user's password."""
    redis_sentinel_username: str = ""
    """Who we are to the server's sentinels."""
    redis_sentinel_password: SecretStr = SecretStr("")
    """That user's password."""
    redis_ca_file: Path | None = None
    """Whose signature on the server's certificate is trusted (PEM); absent: the system's authorities."""
    redis_cert_file: Path | None = None
    """The certificate by which the server knows us (PEM)."""
    redis_key_file: Path | None = None
    """That certificate's key (PEM)."""
    bus_shards: int = Field(default=1, ge=1, le=99_999)
    """Into how many shards sessions are spread: a constant of the deployment; a cluster takes 16 or more."""
    embedded_redis_dir: Path = Path(".bargein/redis")
    """Where the embedded server keeps its data: a folder of its own, readable by its owner only."""
    log_level: LogLevel = "INFO"
    """Only DEBUG shows what was said."""
    log_format: Literal["text", "json"] = "text"
    """json: an object a line, with session and turn as fields."""
    tracing: bool = False
    """Whether OpenTelemetry is told of every turn; where, its own variables say (OTEL_EXPORTER_OTLP_ENDPOINT)."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, Credentials(settings_cls), dotenv_settings

    @field_validator("redis_ca_file", "redis_cert_file", "redis_key_file")
    @classmethod
    def _can_be_read(cls, path: Path | None) -> Path | None:
        if path is not None and not os.access(path, os.R_OK):
            raise ValueError("cannot be read; expected a PEM file")
        return path

    def address(self, url: str = "") -> Address:
        """The bus's address with user, password and files; or that of another Redis, with the same."""
        return Address.parse(
            url or self.redis_url,
            username=self.redis_username,
            password=self.redis_password.get_secret_value(),
            sentinel_username=self.redis_sentinel_username,
            sentinel_password=self.redis_sentinel_password.get_secret_value(),
            tls=Tls(self.redis_ca_file, self.redis_cert_file, self.redis_key_file),
        )

    def queue_address(self, url: str | None) -> Address:
        """Where RQ keeps its jobs: at JOBS_REDIS_URL, which is ``url``, else at REDIS_URL. Raises ValueError."""
        address = self.address(url or "")
        if address.kind == "cluster":
            raise ValueError("JOBS_REDIS_URL: expected a server that is no cluster: RQ, which does the jobs, needs one")
        return address


S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S]) -> S:
    """The settings of a process; with wrong ones one line each on stderr, and SystemExit(2)."""
    try:
        return kind()
    except ValidationError as error:
        for line in problems(kind, error):
            print(line, file=sys.stderr)
    except UnicodeDecodeError:
        print(".env: cannot be read as UTF-8 text; expected lines of NAME=value", file=sys.stderr)
    except OSError as error:
        print(f".env: cannot be read: {error.strerror}", file=sys.stderr)
    raise SystemExit(CONFIGURATION_ERROR)


def problems(kind: type[BaseSettings], error: ValidationError) -> list[str]:
    """One line for each wrong variable: its name, its value (masked) and what was expected."""
    lines = []
    for item in error.errors(include_url=False):
        name = str(item["loc"][0]) if item["loc"] else ""
        field = kind.model_fields.get(name)
        if field is None:
            lines.append(item["msg"].removeprefix("Value error, "))
            continue
        if item["type"] == "missing":
            lines.append(f"{name.upper()}: not set; expected {expected(field)}")
            continue
        value = "(hidden)" if is_secret(name, field) else masked(str(item["input"]))
        said = item["msg"].removeprefix("Value error, ") if item["type"] == "value_error" else ""
        lines.append(f"{name.upper()}={value}: {said or 'expected ' + expected(field)}")
    return lines


def is_secret(name: str, field: FieldInfo) -> bool:
    """Whether a field may hold a secret, by its type or its name."""
    kinds = typing.get_args(field.annotation) or (field.annotation,)
    return SecretStr in kinds or _SECRET_NAME.search(name) is not None


def expected(field: FieldInfo) -> str:
    """What a field allows, in words, from its annotation and its bounds."""
    bounds = [
        f"{sign} {getattr(rule, name)}" for rule in field.metadata for name, sign in _BOUNDS if hasattr(rule, name)
    ]
    text = _kind(field.annotation)
    return f"{text} {' and '.join(bounds)}" if bounds else text


def _kind(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _kind(typing.get_args(annotation)[0])
    if origin is Literal:
        return "one of " + ", ".join(str(value) for value in typing.get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(part) for part in typing.get_args(annotation) if part is not type(None))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "one of " + ", ".join(str(member.value) for member in annotation)
    return _KINDS.get(annotation, getattr(annotation, "__name__", str(annotation)))
