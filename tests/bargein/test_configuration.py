import importlib
import os
import pkgutil
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings

import bus
import gateway
import workers
from bargein.configuration import SECTIONS, main, markdown, read, variables
from bus.settings import load

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = (ROOT / ".env.example").read_text()
NAMED = re.findall(r"^(?:# )?([A-Z][A-Z0-9_]*)=", EXAMPLE, re.M)
LISTED = [(section, kind, variable) for section in SECTIONS for kind, variable in variables(section)]
NAMES = {variable.name.upper() for _, _, variable in LISTED}


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in NAMES & set(os.environ):
        monkeypatch.delenv(name)


def test_every_class_of_settings_is_listed():
    """Whoever adds settings anywhere has them documented; reading them needs none of the heavy packages."""
    for package in (bus, gateway, workers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith("workers.stt.engines.nemo_") and not module.name.endswith("_stream"):
                importlib.import_module(module.name)

    def below(kind):
        for sub in kind.__subclasses__():
            yield sub
            yield from below(sub)

    ours = {kind for kind in below(BaseSettings) if kind.__module__.split(".")[0] in ("bus", "gateway", "workers")}
    assert ours == {kind for section in SECTIONS for kind in section.kinds()}
    fields = {(kind, name) for kind in ours for name in kind.__annotations__ if name in kind.model_fields}
    named = {(section, variable.name) for section, _, variable in LISTED}
    assert {(section, name) for section in SECTIONS for kind, name in fields if kind in section.kinds()} == named


def test_every_variable_says_what_it_is_for():
    assert [variable.name for _, _, variable in LISTED if not variable.purpose] == []


def test_the_page_is_current():
    """docs/configuration.md is what the code says; write it anew with ``python -m bargein config --markdown``."""
    assert (ROOT / "docs" / "configuration.md").read_text() == markdown()


def test_the_example_has_every_variable_and_no_other():
    assert set(NAMED) == NAMES


def test_the_example_changes_nothing():
    """As it is copied, every process reads its defaults: what differs from one is commented out."""
    Path(".env").write_text(EXAMPLE)
    for section in SECTIONS:
        for kind in section.kinds():
            assert read(kind) == (kind(_env_file=None), [])
    set_there = re.findall(r"^([A-Z][A-Z0-9_]*)=", EXAMPLE, re.M)
    assert len(set_there) == len(set(set_there))


def restricted():
    """One case for each variable that does not take any text: its class, and its name."""
    for section, kind, variable in LISTED:
        kinds = typing.get_args(variable.field.annotation) or (variable.field.annotation,)
        if variable.allowed != "text" and not {str, Path, SecretStr} & set(kinds):
            yield pytest.param(kind, variable, id=f"{section.title}-{variable.name}")


@pytest.mark.parametrize(("kind", "variable"), list(restricted()))
def test_a_wrong_value_stops_the_start(monkeypatch, capsys, kind, variable):
    """Whoever reads it: exit code 2, and a line with the variable, the value and what is allowed."""
    monkeypatch.setenv(variable.name.upper(), "NONSENSE!")
    with pytest.raises(SystemExit) as ended:
        load(kind)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert re.match(rf"{variable.name.upper()}=(nonsense!|\(hidden\)): expected ", said, re.I), said


def test_it_shows_what_is_in_effect_without_secrets(monkeypatch, capsys):
    """The environment's values, those of .env and defaults; keys and passwords of any kind are not printed."""
    Path(".env").write_text("GATEWAY_PORT=9000\nLLM_ENGINE=openai\n")
    for name in ("REDIS_PASSWORD", "API_KEYS", "TWILIO_AUTH_TOKEN", "LLM_API_KEY", "WEBHOOK_SECRET_FILE"):
        monkeypatch.setenv(name, "hunter2hunter2")
    monkeypatch.setenv("REDIS_URL", "redis://me:hunter2@redis.example/3")
    monkeypatch.setenv("TTS_URL", "https://voice.example/v1?token=hunter2")
    monkeypatch.setenv("MAX_SESSIONS_PER_KEY", "3")
    assert main([]) == 0
    said = capsys.readouterr().out
    assert "hunter2" not in said
    for line in (
        "REDIS_URL=redis://***@redis.example/3",
        "REDIS_PASSWORD=(set, hidden)",
        "GATEWAY_PORT=9000",
        "TTS_URL=https://voice.example/v1",
        "MAX_SESSIONS_PER_KEY=3",
        "BUS_SHARDS=1",
    ):
        assert f"  {line}\n" in said
    assert "STT_ENGINE=nemo (read by stt): not in use\n" in said
    assert "LLM_ENGINE=openai (read by llm)\n" in said


def test_changed_values_alone(monkeypatch, capsys):
    monkeypatch.setenv("GATEWAY_PORT", "9000")
    assert main(["--changed"]) == 0
    assert capsys.readouterr().out.split() == ["The", "gateway", "(read", "by", "gateway)", "GATEWAY_PORT=9000"]


def test_wrong_values_that_would_stop_a_process_are_all_named(monkeypatch, capsys):
    """Those of an engine that is not chosen stop nobody."""
    monkeypatch.setenv("BUS_SHARDS", "0")
    monkeypatch.setenv("TTS_ENGINE", "pocket")
    monkeypatch.setenv("POCKET_THREADS", "0")
    monkeypatch.setenv("CHATTERBOX_SEED", "-1")
    assert main([]) == 2
    wrong = capsys.readouterr().err.splitlines()
    assert len(wrong) == 2
    assert wrong[0].startswith("BUS_SHARDS=0: expected ") and wrong[1].startswith("POCKET_THREADS=0: expected ")


def test_a_reader_that_has_seen_enough_is_no_error():
    """``bargein config | head -1`` ends well, without a trace."""
    piped = f"set -o pipefail; {sys.executable} -m bargein config | head -1"
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("\n") == 1
