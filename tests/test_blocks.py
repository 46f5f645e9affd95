"""Every block of code in the pages: which test runs it, or why none does; and those that are run here."""

import asyncio
import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest
import yaml
from starlette.routing import Route

from gateway.app import create_app
from gateway.settings import GatewaySettings
from tests.stack import running_stack
from workers.llm.engines.openai import OpenAISettings
from workers.process import WorkerSettings

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.M | re.S)

HERE = "tests/test_blocks.py"
RUN = {
    ("README.md", "from openai import AsyncOpenAI"): HERE,
    ("README.md", ". .venv/bin/activate"): "tests/test_readme.py",
    ("clients.md", "from openai import AsyncOpenAI"): "tests/clients/test_docs.py",
    ("clients.md", "async for event in connection:"): "tests/clients/test_docs.py",
    ("clients.md", "from livekit.agents import"): "tests/clients/test_docs.py",
    ("clients.md", "from pipecat.services"): "tests/clients/test_docs.py",
    ("clients.md", "import { RealtimeAgent"): "tests/clients/test_docs.py",
    ("clients.md", "TWILIO_AUTH_TOKEN="): "tests/clients/test_docs.py",
    ("clients.md", "TELNYX_PUBLIC_KEY="): "tests/clients/test_docs.py",
    ("clients.md", "export BARGEIN_API_KEY="): "tests/clients/test_docs.py",
    ("deploy.md", "cat >> /etc/bargein/bargein.env"): HERE,
    ("deploy.md", "STT_ENGINE=nemo"): HERE,
    ("deploy.md", "mkdir -m 700 deploy/secrets"): HERE,
    ("engines.md", "import asyncio"): "tests/workers/test_engines_page.py",
    ("metrics.md", "scrape_configs:"): HERE,
}
NOT_RUN = {
    ("README.md", "make run"): "installs, and runs all tests; by hand on a bare Debian (debootstrap)",
    ("CONTRIBUTING.md", "make test"): "the same",
    ("debugging.md", "python -m bus.monitor"): "never ends; tests/bus/test_monitor.py",
    (
        "deploy.md",
        "apt-get install",
    ): "wants root; tests/deploy/test_install.py runs the script, by hand in a debootstrap",
    ("deploy.md", "kubectl create namespace"): "wants a cluster; docs/deploy.md says so",
    ("engines.md", "PYTHONPATH=. STT_ENGINE=toys"): "never ends; its engines are run by their names",
    ("metrics.md", "TRACING=true"): "wants a collector; tests/gateway/test_tracing.py",
    ("stt.md", "make install-nemo"): "installs 2.3 GB; .ci/run does",
    ("tts.md", "make install-chatterbox"): "installs 2 GB; .ci/run does",
}


def blocks():
    return [(page.name, kind, code) for page in PAGES for kind, code in BLOCK.findall(page.read_text())]


def block(page, begin):
    (found,) = [code for name, _, code in blocks() if name == page and code.startswith(begin)]
    return found


def test_every_block_is_run_or_it_is_said_why_not():
    """No page has a block that nobody has looked at, and no list here one that is gone."""
    listed = {**RUN, **NOT_RUN}
    for page, _, code in blocks():
        known = [begin for name, begin in listed if name == page and code.startswith(begin)]
        assert len(known) == 1, (page, code[:60])
    for page, begin in listed:
        assert block(page, begin)
    assert all((ROOT / test).exists() for test in RUN.values())


async def test_the_client_in_the_readme():
    """It connects, and the first event is the session's."""
    heard = []
    async with running_stack() as stack:
        code = block("README.md", "from openai import AsyncOpenAI").replace("http://127.0.0.1:8080", stack.http)
        names = {"print": heard.append}
        exec(f"async def main():\n{textwrap.indent(code, '    ')}", names)
        async with asyncio.timeout(20):
            await names["main"]()
    assert [event.type for event in heard] == ["session.created"]


@pytest.fixture
def etc(tmp_path, monkeypatch):
    """What deploy/install.sh leaves of /etc/bargein, and a way to run a block with it."""
    (tmp_path / "credentials").mkdir()
    (tmp_path / "bargein.env").touch()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    for name in ("LLM_ENGINE", "LLM_URL", "LLM_MODEL", "PUBLIC_URL", "API_KEYS", "LLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def shell(code, folder):
    environment = {**os.environ, "LLM_KEY": "sk-of-the-model-server"}
    subprocess.run(["bash", "-eu", "-c", code], cwd=folder, env=environment, check=True, timeout=20)


def test_settings_and_secrets_of_a_service(etc):
    """What the page writes into /etc/bargein is what the processes read."""
    shell(block("deploy.md", "cat >> /etc").replace("/etc/bargein", str(etc)), etc)
    env = etc / "bargein.env"
    gateway, llm = GatewaySettings(_env_file=env), OpenAISettings(_env_file=env)
    assert gateway.public_url == "https://voice.example.com" and set(gateway.keys()) == {"shop"}
    assert (llm.llm_url, llm.llm_model) == ("http://llm.example:8000/v1", "qwen3")
    assert llm.llm_api_key.get_secret_value() == "sk-of-the-model-server"
    assert WorkerSettings(_env_file=env).llm_engine == "openai"
    assert {path.stat().st_mode & 0o777 for path in (etc / "credentials").iterdir()} == {0o600}


def test_settings_of_a_gpu(etc):
    (etc / "bargein.env").write_text(block("deploy.md", "STT_ENGINE=nemo"))
    worker = WorkerSettings(_env_file=etc / "bargein.env")
    assert (worker.stt_engine, worker.tts_engine) == ("nemo", "chatterbox")


def test_secrets_of_the_containers(tmp_path):
    """Every secret that the compose file names is made, in a folder of its owner's."""
    (tmp_path / "deploy").mkdir()
    shell("\n".join(line for line in block("deploy.md", "mkdir -m 700").splitlines() if "docker" not in line), tmp_path)
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    named = {Path(secret["file"]).name for secret in compose["secrets"].values()}
    assert {path.name for path in (tmp_path / "deploy" / "secrets").iterdir()} >= named
    assert (tmp_path / "deploy" / "secrets").stat().st_mode & 0o777 == 0o700


def test_the_scrape_of_the_metrics():
    """Prometheus' default path is one of ours."""
    (job,) = yaml.safe_load(block("metrics.md", "scrape_configs:"))["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:8080"]}] and "metrics_path" not in job
    routes = create_app(GatewaySettings(_env_file=None)).routes
    assert "/metrics" in [route.path for route in routes if isinstance(route, Route)]
