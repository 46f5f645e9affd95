"""The names of every stream, key and channel, in one place.

Every name starts with ``bargein:{s<shard>}:`` so that Redis Cluster keeps one shard's keys together; what one
Lua script touches is always in one shard. A session id carries its shard: ``s<shard>-<12 hex digits>``.
"""

import functools
import re
import secrets
import zlib

PREFIX = "bargein"
CANCEL_CHANNEL = f"{PREFIX}:cancel"

STAGES = ("stt", "llm", "tts", "playback")
WORK = {"stt": "sessions", "llm": "turns", "tts": "speak"}
"""The work stream on which each stage's offers stand; its consumer group has the stage's name."""

SESSION_STREAMS = (
    "mic", "transcript", "reply", "speech", "history", "playback", "acks", "records", "inputs",
    "control",
)  # fmt: skip
SESSION_KEYS = (
    *SESSION_STREAMS, "config", "cancelled", "fence:stt", "fence:llm", "fence:tts", "fence:gateway", "offers:stt",
    "offers:llm", "offers:tts", "lease:gateway",
)  # fmt: skip
KEPT_KEYS = tuple(name for name in SESSION_KEYS if name != "lease:gateway")
"""What is kept for a while after a session's end. The lease is not: it says that there is none."""

_SESSION = re.compile(r"s(\d{1,5})-[0-9a-z]{4,32}(\.\d+)?")


def new_session(shards: int) -> str:
    """A fresh session id on a shard chosen at random among ``shards`` (>= 1)."""
    tail = secrets.token_hex(6)
    return f"s{zlib.crc32(tail.encode()) % shards}-{tail}"


def is_session(text: str) -> bool:
    """Whether ``text`` has the form of a session id: ``s0-4f1c09aa31d2`` or a child ``s0-4f1c09aa31d2.1``."""
    return _SESSION.fullmatch(text) is not None


def session_in(text: str) -> str:
    """The first session id within ``text``, else ""."""
    match = _SESSION.search(text)
    return match.group() if match is not None else ""


@functools.lru_cache(4096)
def shard_of(session: str) -> int:
    """The shard in a session id. Raises ValueError when the id has another form."""
    match = _SESSION.fullmatch(session)
    if match is None:
        raise ValueError(f"not a session id: {session[:40]!r}; expected s<shard>-<hex>")
    return int(match.group(1))


def session_key(session: str, name: str) -> str:
    """The key of one of a session's streams or values; ``name`` is one of SESSION_KEYS."""
    return f"{PREFIX}:{{s{shard_of(session)}}}:{session}:{name}"


def work_key(shard: int, stage: str) -> str:
    """The work stream of a stage (``stt``, ``llm`` or ``tts``) in a shard."""
    return f"{PREFIX}:{{s{shard}}}:{WORK[stage]}"


def secret_key(digest: str) -> str:
    """What an ephemeral API key with this digest may do; it expires with the key."""
    return f"{PREFIX}:secret:{digest}"


def handover_key(call: str) -> str:
    """The number that a phone call is handed over to; ``call`` is the carrier's name for it."""
    return f"{PREFIX}:handover:{call}"


def places_key(caller: str | None = None) -> str:
    """The sorted set of calls that have a place, over all gateways; with a name those with that API key."""
    return f"{PREFIX}:{{places}}" if caller is None else f"{PREFIX}:{{places}}:{caller}"


def call_key(call: str) -> str:
    """The session of a phone call that goes on; ``call`` as in ``handover_key``."""
    return f"{PREFIX}:call:{call}"


def live_key(shard: int) -> str:
    """The set of a shard's sessions that some gateway has begun and none has ended."""
    return f"{PREFIX}:{{s{shard}}}:live"


def worker_key(stage: str, worker: str) -> str:
    """The hash in which a worker describes itself; it expires when the worker stops renewing it."""
    return f"{PREFIX}:{{workers}}:{stage}:{worker}"


def workers_index(stage: str) -> str:
    """The sorted set of a stage's worker ids, scored by the time (ms) at which each expires."""
    return f"{PREFIX}:{{workers}}:{stage}"
