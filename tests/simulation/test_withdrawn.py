"""An offer that nobody had claimed is taken back, so a cancel is answered without anybody to answer it."""

from bus.leases import Work
from bus.offers import TurnOffer
from bus.streams import Bus
from gateway.cancellable import CancellableTurn
from tests.bus.fake_server import fake_connector


async def test_an_unclaimed_offer_is_withdrawn_and_counts_as_never_started():
    """No worker lives, and yet every stage has answered as soon as the offer is off the stream."""
    bus = Bus(fake_connector())
    work = {"llm": Work(bus, "llm")}
    answers = []
    turn = CancellableTurn("s0-0000beef", 1, lambda number, ack: answers.append((number, ack.stage, ack.outcome)))
    turn.offering("llm")
    offer = TurnOffer("s0-0000beef", 1, "0-0")
    turn.offered("llm", await work["llm"].offer(offer), offer)
    turn.cancel()
    assert turn.missing == ["playback", "llm"]
    await turn.withdraw(work)
    assert answers == [(1, "llm", "never_started")]
    assert turn.missing == ["playback"]
    assert await bus.commands.xlen("bargein:{s0}:turns") == 0
    await bus.close()
