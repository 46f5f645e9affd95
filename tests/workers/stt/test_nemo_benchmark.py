"""The benchmark's command, with the tests' model."""

import os
import subprocess
import sys

import pytest

from tests.product import ROOT

pytest.importorskip("nemo", reason="NeMo is not installed: make install-nemo")

pytestmark = pytest.mark.nemo


def test_both_contenders_are_measured():
    """One line each, in which two streams at least kept up, and a pace of speech."""
    command = [sys.executable, "-m", "benchmarks.stt_capacity", "--tiny", "--threads", "1"]
    command += ["--seconds", "2", "--limit", "2", "--tries", "2", "--contexts", "70,6"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]
    head, _, *rows = [
        line for line in done.stdout.splitlines() if line.startswith(("70,6", "ctx")) or "tokens/s" in line
    ]
    assert all(3.0 <= float(each) <= 4.0 for each in head.split(" tokens/s")[0].split()[-1:-4:-2])
    assert [row[6:23].strip() for row in rows] == ["bargein", "NeMo's pipeline"]
    for row in rows:
        streams, *times = row[23:].replace("+", " ").split()
        assert 1 <= int(streams) <= 2
        assert len(times) == 16 and all(float(each) > 0 for each in times if each != "nan")
