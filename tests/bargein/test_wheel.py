"""What ``python -m build`` makes, installed into an environment of its own and used from another folder."""

import os
import signal
import site
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from gateway.web import PAGE
from tests.product import free_port

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60.0


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of the installed package's programs. It sees this environment's dependencies, but not the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True, cwd=folder)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    (wheel,) = folder.glob("bargein-*.whl")
    assert list(folder.glob("bargein-*.tar.gz"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    install = ["pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True, cwd=folder)
    packages = next((folder / "venv").glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return python.parent


def environment(**settings):
    """As it is here, but for this checkout and its settings."""
    ours = ("PYTHONPATH", "VIRTUAL_ENV")
    return {**{name: value for name, value in os.environ.items() if name not in ours}, **settings}


def said(installed, folder, *arguments):
    command = [str(installed / "bargein"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment(), timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_the_installed_one(installed, tmp_path):
    code = "import bargein, bus, gateway, workers; print(*(m.__file__ for m in (bargein, bus, gateway, workers)))"
    command = [str(installed / "python"), "-c", code]
    files = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment()).stdout
    assert all(file.startswith(str(installed.parent)) for file in files.split())


def test_it_says_its_version_and_its_settings(installed, tmp_path):
    assert said(installed, tmp_path, "--version").split() == ["bargein", "0.1.0"]
    assert "  GATEWAY_PORT=8080\n" in said(installed, tmp_path, "config")


@pytest.mark.parametrize("command", ["run", "config", "client", "inspect", "replay", "monitor"])
def test_every_command_has_a_help(installed, tmp_path, command):
    assert said(installed, tmp_path, command, "--help").startswith("usage: ")


@pytest.mark.real
def test_it_starts_the_procfile_and_serves_the_page(installed, tmp_path):
    """Every file of the page comes out of the wheel as it is here; SIGTERM ends it all, well."""
    port, redis_port = free_port(), free_port()
    settings = environment(
        GATEWAY_PORT=str(port),
        REDIS_URL=f"redis://127.0.0.1:{redis_port}/0",
        EMBEDDED_REDIS_DIR=str(tmp_path / "redis"),
        PYTHONUNBUFFERED="1",
    )
    with (tmp_path / "log").open("wb") as log:
        command = [str(installed / "bargein"), "run", "--no-colour", "redis", "gateway"]
        product = subprocess.Popen(command, cwd=tmp_path, env=settings, stdout=log, stderr=subprocess.STDOUT)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            until = time.monotonic() + LIMIT
            while True:
                try:
                    page = client.get("/")
                    break
                except httpx.TransportError:
                    assert product.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()
                    time.sleep(0.1)
            assert page.text == (PAGE / "index.html").read_text()
            for file in (file for file in PAGE.rglob("*.*") if file.is_file()):
                assert client.get(f"/page/{file.relative_to(PAGE)}").content == file.read_bytes(), file
    finally:
        product.send_signal(signal.SIGTERM)
        code = product.wait(LIMIT)
    assert code == 0, (tmp_path / "log").read_text()
