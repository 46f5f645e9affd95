"""The caller's audio on its way in: resampled to 16 kHz once for the detector, once for the recogniser.

Positions: a sample of the client's audio at index n is sample ``n * 16000 / rate`` here; the resamplers are aligned
and only hold back, so neither adds an offset. The detector's path holds back two samples (cubic interpolation), the
recogniser's 22 ms at 24 kHz and 66 ms at 8 kHz in the median, at most 37 and 115 (band-limited): an onset is not
delayed for the sake of a clean recording.
"""

from __future__ import annotations

import numpy as np
import soxr

from gateway.speech import RATE


class Hearing:
    """Streaming conversion of a client's mono 16-bit audio at ``rate`` Hz to 16 kHz."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._odd = b""
        self._fast = self._clean = None
        if rate != RATE:
            self._fast = soxr.ResampleStream(rate, RATE, 1, dtype="int16", quality="QQ")
            self._clean = soxr.ResampleStream(rate, RATE, 1, dtype="int16", quality="HQ")

    def feed(self, pcm: bytes) -> tuple[bytes, bytes]:
        """(for the detector, for the recogniser) at 16 kHz. The last byte of an odd chunk is kept for the next."""
        pcm = self._odd + pcm
        self._odd = pcm[len(pcm) & ~1 :]
        pcm = pcm[: len(pcm) & ~1]
        if self._fast is None or self._clean is None:
            return pcm, pcm
        samples = np.frombuffer(pcm, "<i2")
        return self._fast.resample_chunk(samples).tobytes(), self._clean.resample_chunk(samples).tobytes()

    def finish(self) -> tuple[bytes, bytes]:
        """What is still held back; nothing follows."""
        if self._fast is None or self._clean is None:
            return b"", b""
        none = np.zeros(0, "<i2")
        return tuple(each.resample_chunk(none, last=True).tobytes() for each in (self._fast, self._clean))
