"""Imports the code with one fault, named in MUTATION. As a program it runs seeds until one fails: exit code 0; as a
pytest plugin (``-p tests.simulation.mutant``) it only installs the fault."""

from __future__ import annotations

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType
from typing import Any

from tests.simulation.mutations import MUTATIONS, Mutation

SEEDS = 12
"""How many worlds a fault may survive."""


class _Loader(SourceFileLoader):
    mutation: Mutation

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path).decode()
        for edit in self.mutation.edits:
            if edit.module == fullname:
                if source.count(edit.old) != 1:
                    raise LookupError(f"{fullname}: {edit.old!r} stands {source.count(edit.old)} times, expected 1")
                source = source.replace(edit.old, edit.new)
        return compile(source, self.path, "exec")


class _Finder(MetaPathFinder):
    def __init__(self, mutation: Mutation) -> None:
        self._mutation = mutation

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if all(edit.module != fullname for edit in self._mutation.edits):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            return None
        loader = _Loader(fullname, spec.origin)
        loader.mutation = self._mutation
        spec.loader = loader
        return spec


def install(name: str) -> None:
    """From now on the modules that the fault concerns are imported with it."""
    mutation = next(each for each in MUTATIONS if each.name == name)
    loaded = [edit.module for edit in mutation.edits if edit.module in sys.modules]
    if loaded:
        raise RuntimeError(f"imported already, without the fault: {loaded}")
    sys.meta_path.insert(0, _Finder(mutation))


def main() -> int:
    from tests.simulation.world import Plan, World

    plan = Plan(slots=8, seconds=25.0, call=(10.0, 25.0), trouble=(0.15, 1.3))
    for seed in range(1, SEEDS + 1):
        outcome = World(seed, plan).run()
        if outcome.failure:
            print(f"seed {seed}: {outcome.failure}")
            return 0
    print(f"{SEEDS} seeds passed")
    return 1


if name := os.environ.get("MUTATION"):
    install(name)

if __name__ == "__main__":
    sys.exit(main())
