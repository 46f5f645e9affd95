"""The audio of one session on its way into a streaming encoder: cut into the windows of its steps.

An encoder takes a chunk of mel frames a step, always at multiples of the chunk. The window of a step is the audio its
frames are made from: their own, the frames before that its first convolutions look back on, and what the outermost
Fourier windows reach into. A window has the same length at every step of every session, so any steps share a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Grid:
    """How a model cuts audio. Samples at 16 kHz; frames are mel frames."""

    hop: int
    """Samples from one frame to the next."""
    reach: int
    """Samples a frame reaches to either side of its centre: half its Fourier window."""
    chunk: int
    """Frames of a step."""
    lookback: int
    """Frames before them that the encoder's first convolutions see again."""

    @property
    def margin(self) -> int:
        """Samples before the centre of a window's first frame: its reach and the pre-emphasis, in whole hops."""
        return (self.reach // self.hop + 1) * self.hop

    @property
    def step(self) -> int:
        """Samples from one step to the next."""
        return self.chunk * self.hop

    @property
    def history(self) -> int:
        """Samples of a window before its chunk."""
        return self.margin + self.lookback * self.hop

    def window(self, chunks: int = 1) -> int:
        """Samples of the window of so many chunks."""
        return self.history + chunks * self.step - self.hop + self.reach


class Stream:
    """What was fed and not yet stepped over. Not for several threads at once."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.ignored = 0
        """How many of the next steps belong to what came before the utterance: their words are not its words."""
        self._pcm = bytearray(2 * grid.history)
        self._steps = 0

    def append(self, pcm: bytes) -> None:
        """Take 16-bit audio. Raises ValueError for half a sample."""
        if len(pcm) % 2:
            raise ValueError(f"{len(pcm)} bytes of audio; expected whole 16-bit samples")
        self._pcm += pcm

    @property
    def ready(self) -> bool:
        """Whether the next step has all its audio."""
        return len(self._pcm) >= 2 * self.grid.window()

    @property
    def pending(self) -> int:
        """Samples that no step has covered."""
        return len(self._pcm) // 2 - self.grid.history

    @property
    def unborn(self) -> int:
        """Frames at the beginning of the next window that lie before the stream's first sample."""
        return max(0, self.grid.lookback - self._steps * self.grid.chunk)

    def begin(self) -> None:
        """An utterance starts with the next sample: what is pending is rounded to whole steps, with silence.

        Up to a frame's reach into the next step, a few ms, is left out instead, so that a step that only waits for
        that does not become two.
        """
        excess = self.pending % self.grid.step
        if excess <= self.grid.reach - self.grid.hop:
            del self._pcm[len(self._pcm) - 2 * excess :]
        else:
            self._pcm += bytes(2 * (self.grid.step - excess))
        self.ignored = self.pending // self.grid.step

    def chunks_to_end(self, silence: int) -> int:
        """How many chunks hold all that is pending and ``silence`` samples after it."""
        return max(1, -(-(self.pending + silence) // self.grid.step))

    def fill(self, window: np.ndarray) -> None:
        """Write the next chunks' audio into ``window``, 16-bit, with silence for what has not come yet."""
        count = min(len(window), len(self._pcm) // 2)
        window[:count] = np.frombuffer(self._pcm, "<i2", count)
        window[count:] = 0

    def window(self, chunks: int = 1) -> np.ndarray:
        """The next so many chunks' audio, float32 in [-1, 1), with silence for what has not come yet."""
        window = np.empty(self.grid.window(chunks), np.int16)
        self.fill(window)
        return window.astype(np.float32) / 32768

    def advance(self) -> None:
        """The next step has been made."""
        missing = 2 * self.grid.window() - len(self._pcm)
        self._pcm += bytes(max(0, missing))
        del self._pcm[: 2 * self.grid.step]
        self._steps += 1
        self.ignored = max(0, self.ignored - 1)
