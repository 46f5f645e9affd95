"""deploy/install.sh into a folder: a real environment is built, without what bargein stands on."""

import os
import shutil
import site
import subprocess

import pytest

from tests.deploy.units import DEPLOY, SYSTEMD
from tests.product import ROOT

SCRIPT = DEPLOY / "install.sh"


def install(root, *words, script=SCRIPT):
    """Run it; the dependencies are found where these tests have them, so that none is installed again."""
    environment = {**os.environ, "PIP_NO_DEPS": "1", "PYTHONPATH": os.pathsep.join(site.getsitepackages())}
    command = ["bash", str(script), "--root", str(root), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def state(root):
    """Every file and link under a root: its content, and when it was written."""
    found = {}
    for path in root.rglob("*"):
        if path.is_symlink():
            found[str(path)] = str(path.readlink())
        elif path.is_file():
            found[str(path)] = (path.stat().st_mtime, path.stat().st_mode)
    return found


def versions(root):
    opt = root / "opt/bargein"
    return [(opt / name).readlink().name if (opt / name).is_symlink() else None for name in ("current", "previous")]


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="needs Debian's systemd")
def test_the_life_of_an_installation(tmp_path):
    """Installing twice is installing once; settings are kept through upgrade, roll-back and removal; a release that
    does not start is not switched to; after --purge nothing is left."""
    root = tmp_path / "root"
    units, opt, etc = root / "etc/systemd/system", root / "opt/bargein", root / "etc/bargein"
    told = install(root, "--version", "1")
    assert told.returncode == 0, told.stderr
    assert versions(root) == ["1", None]
    assert (opt / "current/venv/bin/python").exists()
    assert sorted((opt / "current/venv").glob("lib/*/site-packages/gateway/page/index.html"))
    assert {p.name for p in SYSTEMD.iterdir()} == {p.name for p in units.glob("bargein*")} - {"bargein.target.wants"}
    wants = {path.name for path in (units / "bargein.target.wants").iterdir()}
    assert wants == {
        "bargein-redis.service", "bargein-gateway.service", "bargein-stt@1.service", "bargein-llm@1.service",
        "bargein-tts@1.service", "bargein-jobs@1.service",
    }  # fmt: skip
    assert (etc / "credentials").stat().st_mode & 0o777 == 0o700
    values = [line for line in (etc / "bargein.env").read_text().splitlines() if line and not line.startswith("#")]
    assert values == [], "as installed, everything is as it is by default"

    (etc / "bargein.env").write_text("GATEWAY_PORT=8090\n")
    (etc / "credentials/api_keys").write_text("a-secret\n")
    (units / "bargein.target.wants/bargein-tts@1.service").unlink()  # systemctl disable bargein-tts@1
    before = state(root / "opt") | state(etc)
    assert install(root, "--version", "1").returncode == 0
    assert state(root / "opt") | state(etc) == before
    assert not (units / "bargein.target.wants/bargein-tts@1.service").exists(), "what was disabled stays so"

    broken = tmp_path / "broken"
    shutil.copytree(ROOT, broken, ignore=shutil.ignore_patterns(".*", "build", "tests", "*.egg-info"))
    (broken / "bus/server.py").write_text("raise SystemExit('no')\n")
    told = install(root, "--version", "2", script=broken / "deploy/install.sh")
    assert told.returncode != 0 and "does not start; nothing was changed" in told.stderr
    assert versions(root) == ["1", None]

    shutil.copy(ROOT / "bus/server.py", broken / "bus/server.py")
    (broken / "deploy/systemd/bargein-jobs@.service").unlink()
    told = install(root, "--version", "2", script=broken / "deploy/install.sh")
    assert told.returncode == 0, told.stderr
    assert versions(root) == ["2", "1"]
    assert not (units / "bargein-jobs@.service").exists(), "units are those of the release"
    assert install(root, "--rollback").returncode == 0
    assert versions(root) == ["1", "2"]
    assert (units / "bargein-jobs@.service").exists()
    assert (etc / "bargein.env").read_text() == "GATEWAY_PORT=8090\n"
    assert not list(broken.glob("build")) and not list(broken.glob("*.egg-info")), "the checkout is left as it was"

    assert install(root, "--uninstall").returncode == 0
    assert {p.name for p in root.rglob("*") if "bargein" in p.name} == {"bargein", "bargein.env"}
    assert (etc / "credentials/api_keys").read_text() == "a-secret\n"
    assert install(root, "--uninstall", "--purge").returncode == 0
    assert not [p for p in root.rglob("*") if "bargein" in p.name]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rollback"], "there is no release before the first"),
        (["--version", "../1"], "--version ../1: expected letters"),
        (["--python", "/bin/false"], "expected Python 3.11 or newer"),
        (["--python"], "--python: expected a value"),
        (["--fast"], "--fast: no such option"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, words, said):
    """A wrong word, an old Python or nothing to go back to ends it, with what was expected, before anything changes."""
    told = install(tmp_path / "root", *words)
    assert told.returncode == 1 and said in told.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs Debian's shellcheck")
def test_shellcheck_finds_nothing():
    told = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True)
    assert told.returncode == 0, told.stdout
