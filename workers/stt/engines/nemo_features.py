"""Mel frames of live audio, equal to those NeMo makes of the whole recording."""

from __future__ import annotations

import copy
from typing import Any

import torch
from omegaconf import open_dict

from workers.stt.engines.nemo_stream import Grid


class Features:
    """A model's own preprocessor, on windows of many streams at once."""

    def __init__(self, model: Any, grid: Grid) -> None:
        """``grid`` is the model's, see ``nemo_model``."""
        config = copy.deepcopy(model.cfg.preprocessor)
        with open_dict(config):
            config.dither = 0.0
            config.pad_to = 0
        self._preprocessor = model.from_config_dict(config).to(model.device).eval()
        self._grid = grid

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """[batch, mel, lookback and chunk frames] of windows [batch, samples] as ``Grid.window`` measures them."""
        lengths = torch.full((len(windows),), windows.shape[1], device=windows.device)
        frames, _ = self._preprocessor(input_signal=windows, length=lengths)
        first = self._grid.margin // self._grid.hop
        count = (windows.shape[1] - self._grid.margin - self._grid.reach) // self._grid.hop + 1
        return frames[:, :, first : first + count]
