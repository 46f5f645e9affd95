import pytest
import pytest_asyncio

from workers.llm.engines.openai import OpenAI


@pytest.fixture
def set_env(monkeypatch, tmp_path):
    """Sets variables of the engine; no ``.env`` file reaches it."""
    monkeypatch.chdir(tmp_path)

    def set_variables(**values):
        for name, value in values.items():
            monkeypatch.setenv(name.upper(), str(value))

    return set_variables


@pytest_asyncio.fixture
async def engine_for(set_env):
    """Makes a loaded engine for the server at an address; settings by name."""
    made = []

    async def make(url, **values):
        set_env(**{"llm_url": url, "llm_max_tokens": 500} | values)
        engine = OpenAI()
        await engine.load()
        made.append(engine)
        return engine

    yield make
    for engine in made:
        await engine._client.close()
