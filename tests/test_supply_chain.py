"""What bargein stands on: pinned, named without addresses, under licences that go with Apache-2.0; no pickle."""

import ast
import re
import tomllib
from importlib.metadata import distributions, version
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIN = re.compile(r"([\w.-]+)==([\w.+!-]+)(?: ; (.+))?")
INSTALLED = {canonicalize_name(each.name): each for each in distributions()}

PERMISSIVE = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0", "Unlicense", "Zlib",
}  # fmt: skip
NAMED_IN_README = {"GPL-3.0-only", "GPL-3.0-or-later", "LGPL-2.1", "LGPL-2.1-or-later", "MPL-2.0", "PSF-2.0"}
"""Used as they are, by name: each package under one of these stands in README.md with how it is used."""
AS_SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "GPL-3.0": "GPL-3.0-only",
    "GNU Library or Lesser General Public License (LGPL)": "LGPL-2.1",
    "MIT License": "MIT",
    "MIT style": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
WITHOUT_METADATA = {"espeakng-loader": "GPL-3.0-or-later"}
"""What a package does not say of itself, read in its sources."""


def licence(package):
    """A package's licence as an SPDX expression, from its metadata."""
    metadata = package.metadata
    name = canonicalize_name(package.name)
    if name in WITHOUT_METADATA:
        return WITHOUT_METADATA[name]
    if expression := metadata.get("License-Expression"):
        return expression
    classes = [each.rpartition(" :: ")[2] for each in metadata.get_all("Classifier", []) if each.startswith("License")]
    texts = classes or [(metadata.get("License") or "nothing").splitlines()[0]]
    return " OR ".join(AS_SPDX.get(text, text) for text in texts)


def choices(expression):
    """What one has to accept: one set of licences for each alternative of every part that is joined by AND."""
    return [set(re.split(r" OR ", part.strip("() "))) for part in expression.split(" AND ")]


@pytest.mark.parametrize("name", sorted(INSTALLED))
def test_every_licence_goes_with_apache_2(name):
    """Permissive; or weak copyleft, or another process's, and then README.md says how it is used."""
    readme = (ROOT / "README.md").read_text().partition("## Licences")[2]
    for alternatives in choices(licence(INSTALLED[name])):
        if alternatives & PERMISSIVE:
            continue
        assert alternatives & NAMED_IN_README, f"{name}: {alternatives}: not among those that were looked at"
        assert re.search(rf"\b{re.escape(name)}\b", readme.replace("_", "-")), f"{name} is not named in README.md"


def pins(file):
    """The lines of a file of constraints that hold on this Python: name -> version."""
    found = {}
    for line in (ROOT / file).read_text().splitlines():
        if line and not line.startswith("#"):
            match = PIN.fullmatch(line)
            assert match, f"{file}: {line!r}: expected NAME==VERSION, and no address"
            if match[3] is None or Marker(match[3]).evaluate():
                found[canonicalize_name(match[1])] = match[2]
    return found


def closure(requirements):
    """Every package that requirements ask for, here, with all that those ask for."""
    wanted, done = [(Requirement(each), "") for each in requirements], set()
    while wanted:
        requirement, extra = wanted.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for asked in ("", *requirement.extras):
            if (name, asked) not in done:
                done.add((name, asked))
                wanted += [(Requirement(each), asked) for each in INSTALLED[name].requires or ()]
    return {name for name, _ in done}


def test_everything_that_is_installed_is_pinned():
    """What the default install and the tests need, down to the last package, comes in the version that was tried."""
    pinned = pins("constraints.txt")
    needed = closure([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]])
    assert needed - pinned.keys() == set()
    assert {name: version(name) for name in needed} == {name: pinned[name] for name in needed}


@pytest.mark.parametrize(("file", "name"), [("constraints-nemo.txt", "torch"), ("constraints-docs.txt", "mkdocs")])
def test_the_other_constraints_are_pins(file, name):
    assert name in pins(file)


@pytest.mark.parametrize("package", ["bargein", "bus", "gateway", "workers"])
def test_nothing_here_unpickles(package):
    """Nor does anything run text as code. RQ's own pickle is the one there is, on keys that no worker may touch."""
    for file in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"pickle", "marshal", "shelve", "dill", "cloudpickle"} & set(names), file
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), file


def test_only_the_gateway_and_the_jobs_reach_the_jobs_queue():
    """Whoever writes there has code run by the jobs' process: a worker's user has no right on it."""
    users = {line.split()[1]: line for line in (ROOT / "deploy/redis/users.acl").read_text().splitlines()}
    assert {name for name, rights in users.items() if "rq:" in rights} == {"gateway", "jobs"}
