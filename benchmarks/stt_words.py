"""How many words the tests' recogniser gets right, by what it is let know: ``python -m benchmarks.stt_words``.

Voices the model has never heard, 1 to 4 words at a time, cut at the last word's end, four utterances a session; for
each attention context, what the model remembers at an utterance's start (STT_CONTEXT), and the silence a flush puts
behind the audio. ``repeated`` counts utterances that begin with the word the one before ended with, and how many of
them lost it. Needs ``make install-nemo`` and espeak-ng; run it with that Python.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from benchmarks.picture import Bars, Picture, add_options, save
from tests.words20 import HELD_OUT, MODEL
from tests.words20.speech import sequence
from tests.workers.stt.nemo_world import CONTEXTS, spoken, word_errors
from workers.stt.engines import nemo_model
from workers.stt.engines.nemo_model import Job, Model, load

SESSIONS = 30
UTTERANCES = 4
SILENCES = (0, 400)
"""Milliseconds."""


def utterances() -> list[list[tuple[list[str], bytes]]]:
    """What each session says: (words, their audio)."""
    chance = random.Random(5)
    return [
        [
            (words, spoken(" ".join(words), chance.choice(HELD_OUT), after=0))
            for words in (sequence(chance, 4, repeats=False) for _ in range(UTTERANCES))
        ]
        for _ in range(SESSIONS)
    ]


def heard(model: Model, said: list[list[tuple[list[str], bytes]]]) -> list[tuple[list[str], list[str]]]:
    """Pairs of what was said and what was understood."""
    model.reserve(len(said))
    hearings, pairs = [model.open() for _ in said], []
    for number in range(UTTERANCES):
        for hearing, session in zip(hearings, said, strict=True):
            model.begin(hearing)
            hearing.stream.append(session[number][1])
        while jobs := [Job(hearing) for hearing in hearings if hearing.stream.ready or hearing.stream.ignored]:
            model.step(jobs)
        texts = model.step([Job(hearing, flush=True) for hearing in hearings])
        pairs += [(session[number][0], text.text.split()) for session, text in zip(said, texts, strict=True)]
    return pairs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stt_words", description=__doc__.split("\n")[0])
    add_options(parser)
    options, rows = parser.parse_args(), []
    torch.set_num_threads(1)
    print("context  STT_CONTEXT  silence ms  words right %  first wrong  last wrong  repeated, lost")
    said = utterances()
    before = [session[number - 1][0][-1] if number else "" for number in range(UTTERANCES) for session in said]
    for context, kept in itertools.product(CONTEXTS, ("call", "utterance")):
        model = load(str(MODEL), context, device="cpu", dtype="float32", continuous=kept == "call")
        for silence in SILENCES:
            nemo_model.SILENCE = silence * 16
            pairs = heard(model, said)
            count = sum(len(words) for words, _ in pairs)
            right = 100 * (1 - sum(word_errors(*pair) for pair in pairs) / count)
            first, last = (sum(text[end:][:1] != words[end:][:1] for words, text in pairs) for end in (0, -1))
            again = [words[:1] == text[:1] for last_word, (words, text) in zip(before, pairs, strict=True)
                     if words[0] == last_word]  # fmt: skip
            print(
                f"{context[0]},{context[1]:<5} {kept:<12} {silence:>10} {right:>14.1f}"
                f" {first:>8}/{len(pairs)} {last:>7}/{len(pairs)} {len(again):>10}, {again.count(False)}",
                flush=True,
            )
            rows.append({"context": context, "kept": kept, "silence_ms": silence, "right": right, "first": first})
            rows[-1] |= {"last": last, "utterances": len(pairs), "repeated": len(again), "lost": again.count(False)}
    shares = {f"{row['context'][1]} {row['kept']} {row['silence_ms']} ms": row["right"] for row in rows}
    save(options, {"rows": rows}, Picture("What the tests' recogniser understands", [Bars("Words right", shares, "%")]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
