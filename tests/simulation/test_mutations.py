"""The tests can fail: faults planted in the code are caught."""

import importlib.util
from pathlib import Path

import pytest

from tests.simulation.mutations import MUTATIONS, catch


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_fault_fits_the_code(mutation):
    """Each place that a fault changes is there exactly once, also of those that are tried less often."""
    for edit in mutation.edits:
        source = Path(importlib.util.find_spec(edit.module).origin).read_text()
        assert source.count(edit.old) == 1, (edit.module, edit.old)


@pytest.mark.parametrize("mutation", [m for m in MUTATIONS if not m.slow], ids=lambda mutation: mutation.name)
def test_a_fault_is_caught_at_once(mutation):
    """A fault is seen within the first seeds, or by the test that is there for it."""
    caught, by = catch(mutation)
    assert caught, f"{mutation.name} was not caught: {by}"


@pytest.mark.slow
@pytest.mark.parametrize("mutation", [m for m in MUTATIONS if m.slow], ids=lambda mutation: mutation.name)
def test_a_fault_that_needs_many_calls_is_caught(mutation):
    """A fault that shows only in rare circumstances is seen too, given more seeds."""
    caught, by = catch(mutation)
    assert caught, f"{mutation.name} was not caught: {by}"
