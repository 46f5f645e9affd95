import logging

import pytest

from bus.cancel import CancelToken
from tests.workers.llm.llm_stand_in import DONE, Scripted, chunk, refuses, says
from workers.engines import EngineError
from workers.llm.engine import Message
from workers.llm.engines.openai import OpenAI


async def read(engine):
    """What an engine answers to a greeting."""
    deltas = engine.reply([Message("user", "Hello")], "en-US", CancelToken("s0-abcdef", 1))
    return "".join([delta async for delta in deltas])


@pytest.mark.parametrize("source", ["environment", "file"])
async def test_the_key_is_sent_and_never_shown(engine_for, source, tmp_path, caplog):
    """Not in a log at any level, nor in an error that repeats it, nor with the address's password."""
    caplog.set_level(logging.DEBUG)
    secret = "sk-Zq8-very-secret"
    if source == "file":
        (tmp_path / "key").write_text(f"{secret}\n")
        values = {"llm_api_key_file": tmp_path / "key"}
    else:
        values = {"llm_api_key": secret}
    play = refuses(401, {"error": {"message": f"Incorrect API key provided: {secret}"}})
    async with Scripted(says(chunk("Yes."), DONE), play) as server:
        engine = await engine_for(server.url, **values)
        assert await read(engine) == "Yes."
        assert server.requests[-1].headers["authorization"] == f"Bearer {secret}"
        with pytest.raises(EngineError, match=r"provided: \*\*\*") as failed:
            await read(engine)
    assert secret not in caplog.text and secret not in str(failed.value) and secret not in repr(engine.settings)
    assert "model default at http://" in caplog.text


async def test_a_password_in_the_address_is_not_shown(engine_for, caplog):
    caplog.set_level(logging.INFO)
    async with Scripted(says(chunk("Yes."), DONE)) as server:
        engine = await engine_for(server.url.replace("://", "://user:hunter2@"))
        assert await read(engine) == "Yes."
    with pytest.raises(EngineError) as failed:
        await read(engine)
    assert "hunter2" not in caplog.text + str(failed.value)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "ftp://host/v1", "http://", "nonsense", "http://ho st:1/v1", "http://h:99999"]
)
async def test_a_wrong_address_is_refused_with_what_is_expected(engine_for, url):
    with pytest.raises(EngineError, match="expected http://host:port/v1"):
        await engine_for(url)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"\xff\xfe", "not text"),
        ("ключ", "not a key"),
    ],
)
async def test_a_wrong_key_file_is_refused_by_name(engine_for, tmp_path, content, said):
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(EngineError, match=said) as failed:
        await engine_for("http://127.0.0.1:1", llm_api_key_file=path)
    assert str(path) in str(failed.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LLM_FIRST_TOKEN_S", "0", "expected a number > 0"),
        ("LLM_STALL_S", "soon", "expected a number"),
        ("LLM_TEMPERATURE", "3", "expected a number"),
        ("LLM_MAX_TOKENS", "-1", "expected an integer"),
        ("LLM_CAPACITY", "0", "expected an integer >= 1"),
    ],
)
def test_wrong_settings_are_refused_by_name(set_env, capsys, name, value, said):
    set_env(**{name: value})
    with pytest.raises(SystemExit):
        OpenAI()
    told = capsys.readouterr().err
    assert told.startswith(f"{name}=") and said in told
