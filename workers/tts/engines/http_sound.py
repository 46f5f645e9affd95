"""The samples in an answer of a ``/v1/audio/speech`` server, as they come."""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping
from email.message import Message

import numpy as np
import soxr

from workers.engines import EngineError

log = logging.getLogger(__name__)

HEADERLESS = (
    "", "audio/pcm", "audio/x-pcm", "audio/pcm_s16le", "audio/raw", "audio/x-raw", "application/octet-stream",
    "binary/octet-stream",
)  # fmt: skip
WAV = ("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave")
COMPRESSED = (b"OggS", b"fLaC", b"ID3")
"""How answers begin that are no samples, whatever their content type says."""
HEADER_LIMIT = 1 << 16
"""Bytes within which a WAV's samples begin."""
EXTENSIBLE = 0xFFFE
"""The WAV format whose real number stands further behind."""
UNKNOWN = 0x7FFF0000
"""Bytes from which on a WAV's size is that of a stream whose length was not known when its header was written."""


class Refused(EngineError):
    """The server understood the request and refused it, or it is too late: asking again would not help."""


class HttpSound:
    """The samples in one answer: headerless or a WAV, cut anywhere, at whatever rate it says."""

    def __init__(self, headers: Mapping[str, str], rate: int) -> None:
        """``rate`` is that of the samples given out. Raises Refused when the content type is not of such samples."""
        kind = Message()
        kind["content-type"] = headers.get("content-type") or "application/octet-stream"
        self._kind = kind.get_content_type()
        if self._kind not in HEADERLESS + WAV:
            raise Refused(f"the voice server answered {self._kind[:60]}; expected audio/pcm or audio/wav, 16-bit mono")
        self.seconds: float | None = None
        """How long the whole sound is; None while that is not known."""
        self._rate = rate
        named = str(kind.get_param("rate", "") or headers.get("x-sample-rate", ""))
        self._of = int(named) if named.isdecimal() else rate
        length = "" if "content-encoding" in headers else headers.get("content-length", "")
        self._length = int(length) if length.isdecimal() else None
        self._raw = bytearray()
        """What has come and is not converted: a header, half a sample."""
        self._begun = False
        self._left: int | None = None
        """Bytes of samples still to come; None when not known."""
        self._resampler: soxr.ResampleStream | None = None

    def take(self, piece: bytes) -> bytes:
        """The samples that are whole with ``piece``. Raises Refused when it is no such sound."""
        self._raw += piece
        if not self._begun:
            if len(self._raw) < 12 or not self._header():
                return b""
            self._begin()
        size = len(self._raw) if self._left is None else min(self._left, len(self._raw))
        return self._convert(self._cut(size - size % 2))

    def finish(self) -> bytes:
        """The samples that were kept back. Half a sample at the end is dropped."""
        if not self._begun:
            if self._kind in WAV or self._raw.startswith(b"RIFF"):
                raise EngineError("the voice server's answer broke off within its WAV header")
            self._begin()
        rest = self.take(b"")
        if self._raw and self._left is None:
            log.debug("an answer ended with half a sample")
        return rest + self._convert(b"", last=True)

    def _header(self) -> bool:
        """Read and remove a WAV's header; whether the samples begin now."""
        if self._raw.startswith(COMPRESSED):
            raise Refused("the voice server answered compressed audio; expected audio/pcm or audio/wav, 16-bit mono")
        if not (self._raw.startswith(b"RIFF") and self._raw[8:12] == b"WAVE"):
            if self._kind in WAV:
                raise Refused(f"the voice server answered {self._kind} without a WAV header")
            return True
        format_, at = b"", 12
        while len(self._raw) >= at + 8:
            name, size = struct.unpack_from("<4sI", self._raw, at)
            if name == b"data":
                self._enter(format_, at + 8, size)
                return True
            if name == b"fmt ":
                format_ = bytes(self._raw[at + 8 : at + 8 + size])
            at += 8 + size + size % 2
        if len(self._raw) > HEADER_LIMIT:
            raise Refused("the voice server answered a WAV without samples")
        return False

    def _enter(self, format_: bytes, begin: int, size: int) -> None:
        """Take the header of a WAV whose ``size`` bytes of samples stand from byte ``begin`` on."""
        kind, channels, self._of, _, _, bits = struct.unpack("<HHIIHH", format_[:16].ljust(16, b"\0"))
        if kind == EXTENSIBLE:
            kind = int.from_bytes(format_[24:26], "little")
        if (kind, channels, bits) != (1, 1, 16):
            raise Refused(
                f"the voice server answered a WAV of format {kind}, {bits} bits, {channels} channels; expected PCM "
                "(format 1), 16 bits, 1 channel"
            )
        self._left = size if 0 < size < UNKNOWN else None
        known = [self._left, None if self._length is None else self._length - begin]
        self._length = min((length for length in known if length is not None), default=None)
        del self._raw[:begin]

    def _begin(self) -> None:
        self._begun = True
        if not 8000 <= self._of <= 192_000:
            raise Refused(f"the voice server answered audio of {self._of} samples a second; expected 8000 to 192000")
        if self._length is not None:
            self.seconds = self._length / 2 / self._of
        if self._of != self._rate:
            self._resampler = soxr.ResampleStream(self._of, self._rate, 1, dtype="int16")

    def _cut(self, size: int) -> bytes:
        cut = bytes(self._raw[:size])
        del self._raw[:size]
        if self._left is not None:
            self._left -= size
            if self._left < 2:
                self._raw.clear()  # what stands behind the samples
        return cut

    def _convert(self, pcm: bytes, *, last: bool = False) -> bytes:
        if self._resampler is None:
            return pcm
        return bytes(self._resampler.resample_chunk(np.frombuffer(pcm, "<i2"), last=last).astype("<i2").tobytes())
