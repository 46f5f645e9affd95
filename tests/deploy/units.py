"""deploy/systemd as data, and a command run under as much of a unit's sandbox as needs no systemd.

``python -m tests.deploy.units bargein-stt@.service COMMAND...`` becomes COMMAND with the unit's system call filter and
MemoryDenyWriteExecute, without privileges and unable to gain any.
"""

import ctypes
import importlib
import os
import subprocess
import sys
from pathlib import Path

from bus.settings import BusSettings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SYSTEMD = DEPLOY / "systemd"
NAMES = {
    "redis": "bargein-redis.service",
    "gateway": "bargein-gateway.service",
    **{stage: f"bargein-{stage}@.service" for stage in ("stt", "llm", "tts", "jobs")},
}
_PR_SET_MDWE = 65
_SCMP_ACT_ALLOW, _SCMP_ACT_ERRNO = 0x7FFF0000, 0x00050000


def settings(unit):
    """What a unit says, with the drop-in for all: name -> its values in their order; the last one wins, or all hold."""
    found = {}
    for file in (SYSTEMD / unit, SYSTEMD / "bargein-.service.d" / "10-all.conf"):
        for line in file.read_text().splitlines():
            if line and line[0] not in "#[":
                name, _, value = line.partition("=")
                found.setdefault(name, []).append(value)
    return found


def calls(unit):
    """The system calls that a unit may make."""
    allowed, refused = set(), set()
    for line in settings(unit)["SystemCallFilter"]:
        names = refused if line.startswith("~") else allowed
        for group in line.removeprefix("~").split():
            names |= _group(group)
    return allowed - refused


def _group(name):
    if not name.startswith("@"):
        return {name}
    shown = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
    lines = [line.strip() for line in shown.stdout.splitlines()[1:]]
    return set().union(*(_group(line) for line in lines if line and line[0] != "#"))


def confine(unit):
    """Put this process, and what it starts, under a unit's filter. Raises OSError where the kernel does not let it."""
    names = calls(unit)
    if settings(unit)["MemoryDenyWriteExecute"][0] == "yes":
        _check(ctypes.CDLL(None).prctl(_PR_SET_MDWE, 1, 0, 0, 0))
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(_SCMP_ACT_ERRNO | 1))  # EPERM, as the units say
    for name in names:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:
            _check(seccomp.seccomp_rule_add(context, _SCMP_ACT_ALLOW, number, 0))
    _check(seccomp.seccomp_load(context))


def _check(result):
    if result != 0:
        raise OSError(-result, "the sandbox cannot be set up")


def every_settings():
    """Every settings class of every process."""
    for module in (
        "gateway.settings", "workers.jobs.worker", "workers.llm.engines.openai", "workers.llm.worker",
        "workers.stt.engines.http", "workers.stt.engines.nemo", "workers.supervisor", "workers.tts.engines.chatterbox",
        "workers.tts.engines.http", "workers.tts.worker",
    ):  # fmt: skip
        importlib.import_module(module)
    found, new = set(), [BusSettings]
    while new:
        kind = new.pop()
        found.add(kind)
        new += kind.__subclasses__()
    return found


if __name__ == "__main__":
    confine(sys.argv[1])
    os.execvp(sys.argv[2], sys.argv[2:])
