"""The units as systemd reads them, and against what they start."""

import os
import re
import shutil
import subprocess

import pytest

from gateway.settings import GatewaySettings
from tests.deploy.units import DEPLOY, NAMES, SYSTEMD, every_settings, settings
from workers.process import WorkerSettings
from workers.supervisor import MODULES

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs Debian's systemd"),
]
MOST_EXPOSED = 2.0
"""The most that ``systemd-analyze security`` may say of a unit, of 10; what is left is the network, mostly."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The units in a folder of their own, with a program that is there."""
    folder = tmp_path_factory.mktemp("systemd") / "units"
    shutil.copytree(SYSTEMD, folder)
    for unit in folder.glob("*.service"):
        unit.write_text(unit.read_text().replace("/opt/bargein/current/venv/bin/python", shutil.which("true")))
    return folder


def analyze(folder, *words):
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:", "SYSTEMD_COLORS": "0"}
    return subprocess.run(
        ["systemd-analyze", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def instance(unit):
    return unit.replace("@.", "@1.")


@pytest.mark.parametrize("unit", ["bargein.target", *NAMES.values()])
def test_systemd_finds_nothing_wrong(installed, unit):
    """Each unit is read without an error or a warning."""
    told = analyze(installed, "verify", "--man=no", f"./{instance(unit)}")
    assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.parametrize("unit", NAMES.values())
def test_it_is_exposed_little(installed, unit):
    """A process that is taken over can do little: the exposure that systemd computes stays under MOST_EXPOSED."""
    words = ("security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED * 10:.0f}", f"./{instance(unit)}")
    told = analyze(installed, *words)
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", told.stdout)
    assert told.returncode == 0 and exposure and float(exposure.group(1)) <= MOST_EXPOSED, told.stdout + told.stderr


def test_there_is_a_unit_for_each_process():
    """What the Procfile starts, a unit starts too, by the same modules; each belongs to the target."""
    assert sorted(p.name for p in SYSTEMD.glob("*.service")) == sorted(NAMES.values())
    assert set(NAMES) == {line.split(":")[0] for line in (DEPLOY.parent / "Procfile").read_text().splitlines()}
    for name, unit in NAMES.items():
        wanted = "bus.server" if name == "redis" else f"workers.supervisor --exec {name}"
        assert settings(unit)["ExecStart"] == [f"/opt/bargein/current/venv/bin/python -m {wanted}"]
        assert settings(unit)["WantedBy"] == ["bargein.target"]
    assert set(NAMES) - {"redis"} == set(MODULES)


def test_secrets_are_files_and_drains_have_time():
    """No unit has a secret in its environment; each credential is a setting; SIGKILL comes after the drain is over."""
    fields = {name for kind in every_settings() for name in kind.model_fields}
    for unit in NAMES.values():
        told = settings(unit)
        names = [line.split(":")[0] for line in told["LoadCredential"]]
        assert set(names) <= fields
        assert names == [line.split(":")[0] for line in told["SetCredential"]], "a missing file must not end the start"
        assert not re.search("password|secret|key|token", " ".join(told["Environment"]), re.IGNORECASE)
        assert float(told["TimeoutStopSec"][0].removesuffix("s")) > drain() + 2 + 3  # GOODBYE, uvicorn's grace


def drain():
    return max(kind.model_fields["drain_s"].default for kind in (WorkerSettings, GatewaySettings))
