import gc
import weakref

from bus.heap import EVERY, Leftovers, settle


class Knot:
    """What only a collection ends, as an ended session does."""

    def __init__(self):
        self.itself = self


def test_what_ended_sessions_leave_is_collected_after_so_many():
    """However few objects there are: never more than EVERY sessions wait for it."""
    settle()
    try:
        leftovers, knots, most = Leftovers(), [], 0
        gc.disable()
        for _ in range(3 * EVERY):
            knots.append(weakref.ref(Knot()))
            leftovers.add()
            most = max(most, sum(knot() is not None for knot in knots))
        assert most == EVERY - 1
        assert not any(knot() for knot in knots)
    finally:
        gc.enable()
        gc.unfreeze()
