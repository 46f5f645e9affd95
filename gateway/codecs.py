"""How a client writes audio: 16-bit PCM, or G.711 mu-law and A-law, bit-exact by ITU-T G.711's tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def _mu_law_decoded() -> np.ndarray:
    code = ~np.arange(256) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)
    return np.where(code & 0x80, 0x84 - magnitude, magnitude - 0x84).astype("<i2")


def _a_law_decoded() -> np.ndarray:
    code = np.arange(256) ^ 0x55
    segment, step = (code & 0x70) >> 4, (code & 0x0F) << 4
    magnitude = np.where(segment == 0, step + 8, (step + 0x108) << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype("<i2")


def _mu_law_encoded() -> np.ndarray:
    """The code of each 16-bit sample, by the sample's unsigned value: G.711 sees its upper 14 bits."""
    sample = np.arange(65536).astype("<u2").view("<i2").astype(np.int32) >> 2
    magnitude = np.minimum(np.abs(sample), 8159) + 33
    segment = np.searchsorted(np.array([0x3F, 0x7F, 0xFF, 0x1FF, 0x3FF, 0x7FF, 0xFFF, 0x1FFF]), magnitude)
    code = np.where(segment >= 8, 0x7F, (segment << 4) | ((magnitude >> (segment + 1)) & 0x0F))
    return (code ^ np.where(sample < 0, 0x7F, 0xFF)).astype(np.uint8)


def _a_law_encoded() -> np.ndarray:
    """The code of each 16-bit sample, by the sample's unsigned value: G.711 sees its upper 13 bits."""
    sample = np.arange(65536).astype("<u2").view("<i2").astype(np.int32) >> 3
    magnitude = np.where(sample < 0, -sample - 1, sample)
    segment = np.searchsorted(np.array([0x1F, 0x3F, 0x7F, 0xFF, 0x1FF, 0x3FF, 0x7FF, 0xFFF]), magnitude)
    code = (segment << 4) | ((magnitude >> np.maximum(segment, 1)) & 0x0F)
    return (code ^ np.where(sample < 0, 0x55, 0xD5)).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Codec:
    """One way of writing mono audio. ``tables`` is (code -> sample, sample -> code); None: samples as they are."""

    name: str
    """The Realtime protocol's name for it."""
    rate: int
    """Samples per second."""
    tables: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def width(self) -> int:
        """Bytes of a sample."""
        return 2 if self.tables is None else 1

    def decode(self, data: bytes) -> bytes:
        """16-bit little-endian samples."""
        if self.tables is None:
            return data
        pcm: bytes = self.tables[0][np.frombuffer(data, np.uint8)].tobytes()
        return pcm

    def encode(self, pcm: bytes) -> bytes:
        """What the client is sent for 16-bit little-endian samples."""
        if self.tables is None:
            return pcm
        data: bytes = self.tables[1][np.frombuffer(pcm, "<u2")].tobytes()
        return data

    def milliseconds(self, size: int) -> int:
        """How long ``size`` bytes last."""
        return size * 1000 // (self.rate * self.width)


PCM = Codec("audio/pcm", 24_000)
PCMU = Codec("audio/pcmu", 8_000, (_mu_law_decoded(), _mu_law_encoded()))
PCMA = Codec("audio/pcma", 8_000, (_a_law_decoded(), _a_law_encoded()))
CODECS = {codec.name: codec for codec in (PCM, PCMU, PCMA)}
