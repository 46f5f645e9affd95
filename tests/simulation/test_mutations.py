"""The tests can fail: faults planted in the code are caught."""

import pytest

from tests.simulation.mutations import MUTATIONS, catch


@pytest.mark.parametrize("mutation", [m for m in MUTATIONS if m.quick], ids=lambda mutation: mutation.name)
def test_a_fault_is_caught_at_once(mutation):
    """A fault that breaks a promise in nearly every call is seen in a few seeds."""
    caught, by = catch(mutation)
    assert caught, f"{mutation.name} was not caught: {by}"


@pytest.mark.slow
@pytest.mark.parametrize("mutation", [m for m in MUTATIONS if not m.quick], ids=lambda mutation: mutation.name)
def test_a_fault_that_needs_a_death_is_caught(mutation):
    """A fault that shows only after a death or a lost connection is seen too, given more seeds."""
    caught, by = catch(mutation)
    assert caught, f"{mutation.name} was not caught: {by}"
