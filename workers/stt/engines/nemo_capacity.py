"""How many sessions a streaming model has time for on this machine: measured."""

from __future__ import annotations

import logging
import time

import numpy as np
import torch

from workers.stt.engines.nemo_graphs import SIZES, size_for
from workers.stt.engines.nemo_model import FLUSHED, RATE, Job, Model

log = logging.getLogger(__name__)

PAUSES = 3
"""Seconds from one pause of a speaker to the next, as is assumed."""


def places_in_time(model: Model, most: int, share: float) -> int:
    """How many sessions, ``most`` at most, have time: their steps and flushes take ``share`` of a chunk's time.

    All of them have a chunk each in that time, and as many flush as in speech with a pause every PAUSES seconds.
    Measured with 1, 2, 4, ... sessions, then halfway to what was too many; at least 1. Forgets what is cached.
    """
    limit = share * model.grid.step / RATE
    while True:
        try:
            model.reserve(most)
            break
        except torch.OutOfMemoryError:
            log.info("%d sessions do not fit into the GPU's memory", most)
            most //= 2
    fit, failed = 0, most + 1
    while fit < most and failed > most:
        size = min(2 * fit or 1, most)
        if _takes(model, size) <= limit:
            fit = size
        else:
            failed = size
    middle = (fit + failed) // 2
    if fit < middle < failed <= most and _takes(model, middle) <= limit:
        fit = middle
    return max(fit, 1)


def _takes(model: Model, size: int, repeats: int = 3) -> float:
    """Seconds of a step of ``size`` sessions with noise and of the flushes that fall into a chunk's time.

    The slowest but the first, which warms up; inf where the GPU's memory is too small.
    """
    flushing = -(-size * model.grid.step // (PAUSES * RATE))
    noise = np.random.default_rng(0).integers(-3000, 3000, model.grid.window()).astype("<i2").tobytes()
    hearings, took = [model.open() for _ in range(size)], []
    try:
        model.record(size_for(min(size, SIZES[-1])), 1)
        for chunks in (1, model.padded(2)):
            model.record(size_for(min(flushing, FLUSHED)), chunks)
        for _ in range(repeats + 1):
            for hearing in hearings:
                hearing.stream.append(noise)
            began = time.perf_counter()
            model.step([Job(hearing) for hearing in hearings])
            model.step([Job(hearing, flush=True) for hearing in hearings[:flushing]])
            took.append(time.perf_counter() - began)
    except torch.OutOfMemoryError:
        log.info("a step of %d sessions does not fit into the GPU's memory", size)
        return float("inf")
    finally:
        for hearing in hearings:
            model.close(hearing)
    log.info("steps and flushes of %d sessions take %.1f ms; a chunk lasts %d ms",
             size, max(took[1:]) * 1000, model.grid.step * 1000 // RATE)  # fmt: skip
    return max(took[1:])
