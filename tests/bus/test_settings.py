import logging
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, SecretStr

from bus.address import EXPECTED
from bus.settings import BusSettings, load, masked
from tests.product import ROOT


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("REDIS_URL", "BUS_SHARDS", "EMBEDDED_REDIS_DIR", "LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)


def test_the_defaults_need_no_environment():
    settings = load(BusSettings)
    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert settings.bus_shards == 1
    assert settings.embedded_redis_dir == Path(".bargein/redis")


def test_the_environment_wins_over_the_file(monkeypatch):
    """A value in .env holds unless the environment has one; an empty value is as good as none."""
    Path(".env").write_text("BUS_SHARDS=4\nREDIS_URL=redis://a.example/1\nLOG_LEVEL=\nSOMEBODY_ELSES=1\n")
    monkeypatch.setenv("BUS_SHARDS", "16")
    settings = load(BusSettings)
    assert (settings.bus_shards, settings.redis_url, settings.log_level) == (16, "redis://a.example/1", "INFO")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Everything(BusSettings):
    mode: Literal["full", "half"] = "full"
    share: float = Field(default=0.5, gt=0, le=1)
    enabled: bool = True
    colour: Colour = Colour.RED
    api_key: str = Field(default="", max_length=3)
    pin: SecretStr = Field(default=SecretStr(""), max_length=3)
    limit: int | None = None


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("BUS_SHARDS", "zero", "BUS_SHARDS=zero: expected an integer >= 1 and <= 99999"),
        ("BUS_SHARDS", "0", "BUS_SHARDS=0: expected an integer >= 1 and <= 99999"),
        ("MODE", "both", "MODE=both: expected one of full, half"),
        ("SHARE", "2", "SHARE=2: expected a number > 0 and <= 1"),
        ("ENABLED", "maybe", "ENABLED=maybe: expected true or false"),
        ("COLOUR", "green", "COLOUR=green: expected one of red, blue"),
        ("LIMIT", "x", "LIMIT=x: expected an integer"),
        ("LOG_LEVEL", "loud", "LOG_LEVEL=LOUD: expected one of DEBUG, INFO, WARNING, ERROR"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(monkeypatch, capsys, name, value, line):
    """Wrong settings end the process with code 2 and one line each, without a traceback."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        load(Everything)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines() == [line]


@pytest.mark.parametrize("name", ["API_KEY", "PIN"])
def test_a_secret_is_never_printed(monkeypatch, capsys, name):
    monkeypatch.setenv(name, "hunter2")
    with pytest.raises(SystemExit):
        load(Everything)
    said = capsys.readouterr().err
    assert f"{name}=(hidden): " in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1",
        "redis://:hunter2@host:port/0",
        "redis://:hun/ter2@host",
        "redis://:hunter2@host/zero",
        "redis://:my hunter2@host",
        "hunter2",
        "redis://",
        "unix://",
    ],
)
def test_a_wrong_address_is_refused_without_its_password(monkeypatch, capsys, url):
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(SystemExit):
        load(BusSettings)
    said = capsys.readouterr().err
    assert said.endswith(f"{EXPECTED}\n")
    assert "@" not in url or "ter2" not in said


@pytest.mark.parametrize("url", ["redis://h", "rediss://u:p@h:1/15", "unix:///run/redis.sock", "redis://[::1]:7/0"])
def test_the_forms_of_an_address(monkeypatch, url):
    monkeypatch.setenv("REDIS_URL", url)
    assert load(BusSettings).redis_url == url


def test_a_password_is_not_shown_with_the_settings(monkeypatch, caplog):
    monkeypatch.setenv("REDIS_URL", "redis://me:hunter2@h/0")
    with caplog.at_level(logging.INFO):
        logging.info("%s %r", load(BusSettings), load(BusSettings))
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://u:p@ss@h:1/0", "redis://***@h:1/0"),
        ("unix:///s.sock?password=p&db=1", "unix:///s.sock?password=***&db=1"),
    ],
)
def test_masked(url, shown):
    assert masked(url) == shown


def test_a_file_that_is_not_text_is_named(capsys):
    Path(".env").write_bytes(b"\xff\xfe\x00BAD")
    with pytest.raises(SystemExit) as ended:
        load(BusSettings)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(".env: ")


def test_a_credential_is_a_file(monkeypatch, tmp_path):
    """A file of CREDENTIALS_DIRECTORY holds a value, in either case, without its line end; it wins over .env, and the
    environment over it. An empty one is as good as none."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    for name, text in {"redis_password": "from-file\n", "API_KEY": "abc\n", "pin": "\n", "bus_shards": "16\n"}.items():
        (folder / name).write_text(text)
    Path(".env").write_text("REDIS_PASSWORD=from-env-file\nBUS_SHARDS=4\nPIN=12\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    settings = load(Everything)
    assert settings.redis_password.get_secret_value() == "from-file"
    assert (settings.api_key, settings.bus_shards, settings.pin.get_secret_value()) == ("abc", 16, "12")
    monkeypatch.setenv("REDIS_PASSWORD", "from-environment")
    assert load(Everything).redis_password.get_secret_value() == "from-environment"


def test_a_wrong_credential_is_refused_unseen(monkeypatch, tmp_path, capsys):
    """A value from a file that does not fit is named, and not shown."""
    (tmp_path / "pin").write_text("geheim")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(SystemExit):
        load(Everything)
    told = capsys.readouterr().err
    assert told.startswith("PIN=(hidden): ") and "geheim" not in told


PROCESSES = ("bus.server", "gateway.app", *(f"workers.{stage}.worker" for stage in ("stt", "llm", "tts", "jobs")))


@pytest.mark.parametrize("module", PROCESSES)
def test_a_process_that_takes_no_arguments_says_so(module):
    """Asked for help, or given an argument, it starts nothing: it says where its settings are, or what was wrong."""
    helped, wrong = (
        subprocess.run([sys.executable, "-m", module, argument], capture_output=True, text=True, timeout=60, cwd=ROOT)
        for argument in ("--help", "--port=1")
    )
    assert helped.returncode == 0 and helped.stdout.startswith(f"usage: python -m {module}")
    assert "bargein config" in " ".join(helped.stdout.split())
    assert wrong.returncode == 2 and "--port=1" in wrong.stderr
