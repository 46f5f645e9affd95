"""What strangers send: values, texts and bytes of every kind, and valid ones that are bent or broken off."""

import copy
import functools
import json
import os
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

QUICK = 60
"""Examples of a test in ``make test``, always the same ones; ``make fuzz`` sets FUZZ_EXAMPLES and draws new ones."""
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
COUNT = os.environ.get("FUZZ_COUNT", "")
"""A file that gets a byte for each example."""


def fuzzed(*strategies, cost=1):
    """A test of every example that the strategies make; one that takes long has a ``cost`` and gets fewer of them."""

    def decorate(test):
        @functools.wraps(test)
        def counted(*values, **named):
            if COUNT:
                with Path(COUNT).open("ab") as file:
                    file.write(b".")
            test(*values, **named)

        most = max(10, (EXAMPLES or QUICK) // cost)
        limits = settings(
            max_examples=most, derandomize=not EXAMPLES, database=None, deadline=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        return limits(given(*strategies)(counted))

    return decorate


ANY_TEXT = st.text(st.characters())
"""Any text, lone surrogates included."""
DEEP = ["[" * 5000, "{" * 5000, "[" * 100_000, '{"a":' * 3000 + "1" + "}" * 3000]
JUNK = [
    None, True, False, 0, -1, 1, 10**30, 0.5, -1e300, float("nan"), float("inf"), "", "x", "null", "audio/pcm",
    "a" * 5000, "\u0000", "\U0001f600", "\ud800", [], {}, [[]], [None], {"": None}, {"type": "message"},
    {"type": "function"}, "r" * 600, [[[[[]]]]], {"at": "x"}, {"offset": None}, "1e999", "-->",
]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.sampled_from(JUNK),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)
"""Any JSON value, and the numbers that only Python's reader takes for one."""


def places(value, path=()):
    """Every path into a JSON value."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in pairs:
        yield from places(each, (*path, key))


def mutated(value, rng, *, keep=(), junk=tuple(JUNK)):
    """A value with some places replaced, removed, doubled or joined by others; the paths in ``keep`` stay."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        found = [path for path in places(value) if path and path not in keep]
        if not found:
            break
        *way, last = rng.choice(found)
        parent = value
        for key in way:
            parent = parent[key]
        change = rng.random()
        if change < 0.6:
            parent[last] = copy.deepcopy(rng.choice(junk))
        elif change < 0.8:
            del parent[last]
        elif isinstance(parent, dict):
            name = rng.choice(("event_id", "id", "type", "unknown", "status", "role"))
            parent[name] = copy.deepcopy(rng.choice(junk))
        else:
            parent.append(copy.deepcopy(rng.choice(junk)))
    return value


@st.composite
def bent(draw, valid, keep=()):
    """One of the ``valid`` JSON values, mutated; most of it is as it should be."""
    rng = draw(st.randoms(use_true_random=False))
    return mutated(rng.choice(valid), rng, keep=keep)


@st.composite
def json_text(draw, valid):
    """What claims to be JSON: a bent value, any value, one that breaks off, one that is too deep, or no JSON at all."""
    rng = draw(st.randoms(use_true_random=False))
    kind = rng.randrange(6)
    if kind == 0:
        return draw(ANY_TEXT)
    if kind == 1:
        return rng.choice(DEEP)
    if kind == 2:
        return json.dumps(draw(VALUES))
    text = json.dumps(mutated(rng.choice(valid), rng))
    return text[: rng.randrange(len(text) + 1)] if kind == 3 else text


def as_bytes(text):
    """A text on the wire, whatever is in it."""
    return text.encode("utf-8", "surrogatepass")
