"""The sessions that a server knows, live ones and those whose keys have not expired yet."""

from __future__ import annotations

from dataclasses import dataclass

from bus.events import TurnRecord
from bus.keys import PREFIX, SESSION_STREAMS, is_session, session_key
from bus.reader import position
from bus.streams import Bus


@dataclass(frozen=True, slots=True)
class Summary:
    """One session in a line. Times in ms since 1970, by the server's clock; 0 where nothing was written yet."""

    session: str
    live: bool
    """Whether a gateway holds it."""
    began: int
    newest: int
    turns: int
    """Turns that are settled."""
    cancelled: int
    """The cancel watermark: the highest turn that was cancelled; 0 for none."""
    expires_s: int
    """Seconds until its keys are gone; -1: no time is set."""
    key: str | None
    """The name of the API key that it was begun with; None where that is not known."""


async def known(bus: Bus) -> list[str]:
    """The ids of all sessions whose config hash is there, in the order of their ids."""
    found = set()
    async for key in bus.commands.scan_iter(match=f"{PREFIX}:{{s*}}:*:config", count=500):
        session = key.decode().split(":")[-2]
        if is_session(session):
            found.add(session)
    return sorted(found)


async def exists(bus: Bus, session: str) -> bool:
    """Whether the server has anything of the session. Raises ValueError when the id is malformed."""
    return bool(await bus.commands.exists(session_key(session, "config"), session_key(session, "inputs")))


async def live(bus: Bus, session: str) -> bool:
    """Whether a gateway holds the session."""
    return bool(await bus.commands.exists(session_key(session, "lease:gateway")))


async def summary(bus: Bus, session: str) -> Summary:
    """A session in a line."""
    async with bus.commands.pipeline(transaction=False) as pipe:
        pipe.exists(session_key(session, "lease:gateway"))
        pipe.xrange(session_key(session, "inputs"), count=1)
        pipe.xrevrange(session_key(session, "inputs"), count=1)
        pipe.xlen(session_key(session, "records"))
        pipe.get(session_key(session, "cancelled"))
        pipe.pttl(session_key(session, "config"))
        pipe.hget(session_key(session, "config"), "key")
        held, first, last, turns, cancelled, left, key = await pipe.execute()
    began, newest = (position(rows[0][0].decode())[0] if rows else 0 for rows in (first, last))
    expires, name = max(-1, int(left) // 1000), None if key is None else key.decode()
    return Summary(session, bool(held), began, newest, turns, int(cancelled or 0), expires, name)


async def summaries(bus: Bus) -> list[Summary]:
    """Every session in a line: the live ones first, the newest first."""
    found = [await summary(bus, session) for session in await known(bus)]
    return sorted(found, key=lambda each: (not each.live, -each.began, each.session))


async def records(bus: Bus, session: str) -> list[TurnRecord]:
    """The records of a session's settled turns, in order."""
    entries = await bus.replay(session_key(session, "records"))
    found = {entry.event.turn: entry.event for entry in entries if isinstance(entry.event, TurnRecord)}
    return [found[turn] for turn in sorted(found)]


def streams(session: str) -> dict[str, str]:
    """Key -> name of each of a session's streams."""
    return {session_key(session, name): name for name in SESSION_STREAMS}
