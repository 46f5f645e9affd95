"""Every setting there is, read from the classes that read it: ``bargein config`` and docs/configuration.md."""

from __future__ import annotations

import argparse
import importlib
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from bus.settings import CONFIGURATION_ERROR, BusSettings, S, expected, is_secret, masked, problems
from workers.process import WorkerSettings


class Chosen(BaseSettings):
    """Which engines are in use, whatever else is wrong."""

    model_config = BusSettings.model_config

    stt_engine: str = WorkerSettings.model_fields["stt_engine"].default
    llm_engine: str = WorkerSettings.model_fields["llm_engine"].default
    tts_engine: str = WorkerSettings.model_fields["tts_engine"].default
    second_pass_engine: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Settings that are read together."""

    title: str
    readers: str
    """Which processes read them."""
    classes: tuple[str, ...]
    """As ``module:Class``."""
    engine: str = ""
    """An engine's, as ``stage=name``: read only while that engine is chosen."""

    def kinds(self) -> list[type[BaseSettings]]:
        """The classes, imported."""
        paths = (path.partition(":") for path in self.classes)
        return [getattr(importlib.import_module(module), name) for module, _, name in paths]

    def in_use(self, chosen: Chosen) -> bool:
        """Whether some process reads them, with these engines."""
        stage, _, name = self.engine.partition("=")
        return (
            not name
            or name == getattr(chosen, f"{stage}_engine")
            or (stage, name) == ("stt", chosen.second_pass_engine)
        )


SECTIONS = (
    Section("The bus", "every process, and the tools", ("bus.settings:BusSettings",)),
    Section("The gateway", "gateway", ("gateway.settings:GatewaySettings",)),
    Section("The supervisor", "what starts gateway, stt, llm, tts, jobs", ("workers.supervisor:SupervisorSettings",)),
    Section("The workers", "stt, llm and tts", ("workers.process:WorkerSettings",)),
    Section("The LLM worker", "llm", ("workers.llm.worker:FallbackSettings", "workers.llm.prompt:ContextSettings")),
    Section("The TTS worker", "tts", ("workers.tts.worker:SpeechSettings",)),
    Section("STT_ENGINE=pocketsphinx", "stt", ("workers.stt.engines.pocketsphinx:Settings",), "stt=pocketsphinx"),
    Section("STT_ENGINE=http", "stt", ("workers.stt.engines.http:HttpSettings",), "stt=http"),
    Section("STT_ENGINE=nemo", "stt", ("workers.stt.engines.nemo:NemoSettings",), "stt=nemo"),
    Section("LLM_ENGINE=demo", "llm", ("workers.llm.engines.demo:DemoSettings",), "llm=demo"),
    Section("LLM_ENGINE=openai", "llm", ("workers.llm.engines.openai:OpenAISettings",), "llm=openai"),
    Section("TTS_ENGINE=espeak", "tts", ("workers.tts.engines.espeak:Settings",), "tts=espeak"),
    Section("TTS_ENGINE=http", "tts", ("workers.tts.engines.http:HttpSettings",), "tts=http"),
    Section("TTS_ENGINE=chatterbox", "tts", ("workers.tts.engines.chatterbox:ChatterboxSettings",), "tts=chatterbox"),
    Section("TTS_ENGINE=pocket", "tts", ("workers.tts.engines.pocket:PocketSettings",), "tts=pocket"),
    Section(
        "Jobs after a call",
        "jobs",
        (
            "workers.jobs.queue:JobSettings",
            "workers.jobs.recording:RecordingSettings",
            "workers.jobs.worker:SweepSettings",
            "workers.jobs.webhook:WebhookSettings",
            "workers.jobs.second_pass:SecondPassSettings",
        ),
    ),
)

INTRODUCTION = """\
# Configuration

Every process reads its settings from the environment, else from a file of the setting's name in the folder that
`CREDENTIALS_DIRECTORY` names (systemd's `LoadCredential=`, or a mounted secret), else from a `.env` file in the
directory it is started in, else takes the default. An empty value counts as not set, but for `FALLBACK_TEXT`. A wrong
value stops the start (exit code 2) with a line that names the variable, the value and what is allowed. `bargein
config` shows the values in effect, secrets hidden; [.env.example](../.env.example) has the same variables to copy. An
engine's settings are read while that engine is chosen; one of your own (`package.module:Class`) has its own.

This page is written by `python -m bargein config --markdown`; a test holds it to the code.
"""

UNREAD = "?"
"""Shown for all that is read together with a wrong value: there are no values then."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable, as one class reads it."""

    name: str
    """Of the field: the variable in lower case."""
    field: FieldInfo

    @property
    def allowed(self) -> str:
        """What it takes, in words."""
        return expected(self.field)

    @property
    def purpose(self) -> str:
        """What it is for: the field's docstring, on one line."""
        return " ".join((self.field.description or "").replace("``", "`").split())

    @property
    def default(self) -> str:
        """Its default, as one would write it; no path of this machine."""
        if self.field.default == sys.executable:
            return "the supervisor's own"
        return written(self.field.default)

    def shown(self, value: Any) -> str:
        """A value in effect, with what may be secret hidden."""
        if value == self.field.default or isinstance(value, bool | int | float):
            return self.default if value == self.field.default else written(value)
        if is_secret(self.name, self.field):
            return "(set, hidden)"
        text = written(value)
        return text if self.field.repr else masked(text).partition("?")[0]


def written(value: Any) -> str:
    """A value as it stands in .env; nothing for what is absent."""
    if value is None or value is PydanticUndefined:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, float):
        return f"{value:g}"
    return value.as_posix() if isinstance(value, Path) else str(value)


def variables(section: Section) -> Iterator[tuple[type[BaseSettings], Variable]]:
    """A section's variables, each once, with the class that reads it; what a class has from another is left to that."""
    seen = set()
    for kind in section.kinds():
        for name in kind.__annotations__:
            if (field := kind.model_fields.get(name)) is not None and name not in seen:
                seen.add(name)
                yield kind, Variable(name, field)


def markdown() -> str:
    """docs/configuration.md."""
    parts = [INTRODUCTION]
    for section in SECTIONS:
        parts.append(f"\n## {section.title}\n\nRead by: {section.readers}.\n\n")
        parts.append("| variable | takes | default | |\n|---|---|---|---|\n")
        for _, variable in variables(section):
            default = f"`{variable.default}`" if variable.default else ""
            cells = (f"`{variable.name.upper()}`", variable.allowed, default, variable.purpose)
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(parts)


def read(kind: type[S]) -> tuple[S | None, list[str]]:
    """A class with the environment's values, or what is wrong with them."""
    try:
        return kind(), []
    except ValidationError as error:
        return None, problems(kind, error)
    except (UnicodeDecodeError, OSError) as error:
        return None, [f".env: cannot be read as UTF-8 text: {type(error).__name__}"]


def report(changed: bool) -> tuple[list[str], list[str]]:
    """Lines that say what is in effect, and a line for each wrong value that a process would read."""
    lines: list[str] = []
    wrong: list[str] = []
    chosen = read(Chosen)[0] or Chosen.model_construct()
    for section in SECTIONS:
        used = section.in_use(chosen)
        values = {kind: read(kind) for kind in section.kinds()}
        wrong += [line for _, said in values.values() for line in said if used and line not in wrong]
        body = []
        for kind, variable in variables(section):
            settings = values[kind][0]
            value = UNREAD if settings is None else variable.shown(getattr(settings, variable.name))
            if not changed or value not in (UNREAD, variable.default):
                body += _entry(variable, value, changed)
        if body:
            lines += [f"{section.title} (read by {section.readers}){'' if used else ': not in use'}", *body, ""]
    return lines, wrong


def _entry(variable: Variable, value: str, short: bool) -> list[str]:
    line = f"  {variable.name.upper()}={value}"
    if short:
        return [line]
    about = f"{variable.purpose} Takes {variable.allowed}; default: {variable.default or 'none'}."
    return [line, *textwrap.wrap(about, 110, initial_indent="      ", subsequent_indent="      ")]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the settings; 2 when a value is wrong."""
    parser = argparse.ArgumentParser(
        prog="bargein config",
        description="Every setting: what it is for, what is allowed, its default and the value in effect here, with "
        "secrets hidden. Exit code 2 when a value is wrong.",
    )
    parser.add_argument("--changed", action="store_true", help="only values that are not the default")
    parser.add_argument(
        "--markdown", action="store_true", help="print docs/configuration.md: no values of this machine"
    )
    options = parser.parse_args(argv)
    if options.markdown:
        sys.stdout.write(markdown())
        return 0
    lines, wrong = report(options.changed)
    print("\n".join(lines))
    for line in wrong:
        print(line, file=sys.stderr)
    return CONFIGURATION_ERROR if wrong else 0
