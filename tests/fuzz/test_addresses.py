"""What is configured: addresses, numbers, keys and files that a person writes by hand."""

import os
from pathlib import Path

import pytest
from hypothesis import strategies as st

from bargein.configuration import SECTIONS, variables
from bus.address import Address
from bus.connect import connector
from bus.settings import BusSettings, load, masked
from gateway.keys import SHORTEST, ApiKeys, read_keys
from gateway.settings import GatewaySettings
from tests.fuzz.garbage import ANY_TEXT, fuzzed
from workers.engines import EngineError
from workers.llm.engines.openai import OpenAI
from workers.process import WorkerSettings
from workers.stt.engines import http as stt_http
from workers.tts.engines import http as tts_http

PARTS = st.sampled_from([
    "redis", "rediss", "unix", "redis+sentinel", "rediss+cluster", "http", "https", "://", ":", "/", "@",
    "user:s3cr3t@", "host", "127.0.0.1", "[::1]", "[", "]", "6379", "99999", "0", "-1", "١", "/0", "/1", "/name/2",
    ",", "?", "#", "%zz", "%00", "?db=x", "?socket_timeout=x", "?password=s3cr3t", " ", "\n", "é", "\x00", "..", "v1",
])  # fmt: skip
URLS = st.lists(PARTS, max_size=9).map("".join) | ANY_TEXT


@fuzzed(URLS)
def test_any_address_of_a_redis(url):
    """It is understood, and then clients can be made for it; or a ValueError says what was expected, without what the
    address held."""
    try:
        address = Address.parse(url)
    except ValueError as error:
        assert "expected" in str(error) and "s3cr3t" not in str(error)
        return
    assert "s3cr3t" not in repr(address)
    made = connector(address)
    made(1.0)
    made.sync(1.0) if address.kind != "cluster" else None
    address.with_credentials()


@fuzzed(URLS)
def test_no_password_is_shown(url):
    """What stands before the last ``@`` of an address, and its password parameter, are masked."""
    shown = masked(f"redis://me:s3cr3t@host/{url}?password=s3cr3t")
    assert "s3cr3t" not in shown.partition("?")[0] and not shown.endswith("s3cr3t")


NAMES = sorted({variable.name.upper() for section in SECTIONS for _, variable in variables(section)})
TEXTS = ANY_TEXT.filter(lambda text: "\0" not in text).map(lambda text: text.encode("utf-8", "replace").decode())


@pytest.fixture
def settled(monkeypatch, tmp_path):
    """Sets one variable to a value, with none of the machine's own."""

    def settle(name, value):
        for each in NAMES:
            monkeypatch.delenv(each, raising=False)
        monkeypatch.setenv(name, value)

    monkeypatch.chdir(tmp_path)
    return settle


def test_any_value_of_any_setting(settled, capsys):
    """It is taken, or the start ends with exit code 2 and a line that names the variable."""

    @fuzzed(st.sampled_from(NAMES), TEXTS | URLS.filter(lambda u: "\0" not in u) | st.integers().map(str))
    def start(name, value):
        value = value.encode("utf-8", "replace").decode()
        settled(name, value)
        for kind in (BusSettings, WorkerSettings, GatewaySettings):
            try:
                load(kind)
            except SystemExit as ended:
                said = capsys.readouterr().err
                assert ended.code == 2 and said.strip()
                assert name in said or name in ("GATEWAY_HOST", "API_KEYS"), said

    start()


def test_any_file_of_keys(tmp_path):
    """Every key is named and printable, or a ValueError says which number is wrong, and none of them."""

    @fuzzed(st.binary() | ANY_TEXT.map(lambda text: text.encode("utf-8", "replace")) | st.sampled_from([
        b"a:longenough1\nb=longenough2 # who", b"longenough", b"a:longenough1,a:longenough2", b":::::::::::", b"#",
    ]), ANY_TEXT)  # fmt: skip
    def read(raw, listed):
        (tmp_path / "keys").write_bytes(raw)
        try:
            keys = read_keys(listed, tmp_path / "keys")
        except ValueError as error:
            assert "API_KEYS" in str(error) and "longenough" not in str(error)
            return
        known = ApiKeys(keys)
        for name, key in keys.items():
            assert len(key) >= SHORTEST and keys[known.name_of(key)] == key, name

    read()


@fuzzed(ANY_TEXT)
def test_any_key_is_compared(key):
    """A key that nobody has is nobody's, whatever it is made of."""
    assert ApiKeys({"laptop": "the-right-key"}).name_of(key) in ("", "laptop" if key == "the-right-key" else "")


def test_any_address_and_key_of_a_model_server(settled, tmp_path, monkeypatch):
    """The engine loads, or an EngineError names the variable, and does not show what may be a secret."""
    import asyncio

    @fuzzed(st.sampled_from(["STT", "TTS", "LLM"]), URLS.filter(lambda u: "\0" not in u), st.binary(max_size=40))
    def start(stage, url, raw):
        url = url.encode("utf-8", "replace").decode()
        settled(f"{stage}_URL", url)
        (tmp_path / "key").write_bytes(raw)
        monkeypatch.setenv(f"{stage}_API_KEY_FILE", str(tmp_path / "key"))
        try:
            made = {"STT": stt_http.Http, "TTS": tts_http.Http, "LLM": OpenAI}[stage]()
            asyncio.run(asyncio.wait_for(made.load(), 5))
        except EngineError as error:
            assert f"{stage}_" in str(error) and "s3cr3t" not in str(error)

    if os.environ.get("LLM_URL"):
        monkeypatch.delenv("LLM_URL")
    # The language model's server is looked at when it is named; nobody is at these addresses.
    monkeypatch.setattr(OpenAI, "_recognise", lambda self: asyncio.sleep(0))
    start()
    assert Path(tmp_path).exists()
