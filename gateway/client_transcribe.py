"""A sound file through a transcription session: the words as they come, and text, SRT or WebVTT at the end."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from gateway.client import Call, NoReply
from gateway.client_audio import Int16
from gateway.client_ear import Event

FORMATS = ("txt", "srt", "vtt")
TRAILING_MS = 1500
"""Silence after the file in which its last utterance ends."""
TRANSCRIPTION = "conversation.item.input_audio_transcription."


@dataclass(slots=True)
class Line:
    """One utterance; ``text`` is None until it is known. Times in milliseconds of the audio."""

    start: int
    end: int = 0
    text: str | None = None


class Transcript:
    """What a transcription session has said of its audio."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}

    def take(self, event: Event) -> None:
        """Learn from a server event."""
        kind, item = event.get("type", ""), event.get("item_id", "")
        if kind == "input_audio_buffer.speech_started":
            self._lines[item] = Line(event["audio_start_ms"])
        elif item not in self._lines:
            return
        elif kind == "input_audio_buffer.speech_stopped":
            self._lines[item].end = event["audio_end_ms"]
        elif kind == f"{TRANSCRIPTION}completed":
            self._lines[item].text = event["transcript"].strip()
        elif kind == f"{TRANSCRIPTION}failed":
            self._lines[item].text = ""

    @property
    def complete(self) -> bool:
        """Whether the text of everything that was heard is known."""
        return all(line.text is not None for line in self._lines.values())

    def lines(self) -> list[Line]:
        """The utterances with words, in order."""
        return sorted((line for line in self._lines.values() if line.text), key=lambda line: line.start)

    def written(self, form: str) -> str:
        """The whole, as one of FORMATS."""
        if form == "txt":
            return "".join(f"{line.text}\n" for line in self.lines())
        mark, shown = (",", plain) if form == "srt" else (".", lambda text: escape(plain(text)))
        cues = [
            f"{f'{number}{chr(10)}' if form == 'srt' else ''}"
            f"{clock(line.start, mark)} --> {clock(max(line.end, line.start + 1), mark)}\n{shown(line.text or '')}\n"
            for number, line in enumerate(self.lines(), 1)
        ]
        return ("WEBVTT\n\n" if form == "vtt" else "") + "\n".join(cues)


def plain(text: str) -> str:
    """Text as one line that no reader of subtitles takes for a time."""
    return " ".join(text.split()).replace("-->", "→")


def clock(ms: int, mark: str) -> str:
    """Milliseconds as HH:MM:SS, a mark, and three digits."""
    seconds, rest = divmod(ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{mark}{rest:03}"


def form_of(out: Path | None, wanted: str | None) -> str:
    """The format that is wanted, else that of the file's name, else text."""
    if wanted:
        return wanted
    suffix = out.suffix.lower().removeprefix(".") if out else ""
    return suffix if suffix in FORMATS else "txt"


def address(url: str) -> str:
    """The address of a transcription session at the same gateway."""
    parts = urlsplit(url)
    kept = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("intent", "extensions")]
    return parts._replace(query=urlencode([*kept, ("intent", "transcription")])).geturl()


class Live:
    """Prints words as they come, one utterance a line; on a terminal or into a pipe."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._shown: dict[str, str] = {}

    def __call__(self, at: float, event: Event) -> None:
        """A listener of ``Call``."""
        self._transcript.take(event)
        kind, item = event.get("type", ""), event.get("item_id", "")
        if kind == f"{TRANSCRIPTION}delta":
            self._shown[item] = self._shown.get(item, "") + event["delta"]
            print(event["delta"], end="", flush=True)
        elif kind == f"{TRANSCRIPTION}completed":
            shown, text = self._shown.pop(item, ""), event["transcript"]
            if text.strip():
                # The words turned out to be others than those that had seemed certain: the line is said again.
                print("" if shown.strip() == text.strip() else f"\n{text}" if shown else text, flush=True)


async def transcribe(call: Call, pcm: Int16, transcript: Transcript, timeout: float) -> None:
    """Say the audio, and wait for the text of all of it. Raises CallError."""
    async with call:
        await call.say(pcm)
        await call.clock.sleep_until(call.clock.now() + TRAILING_MS)
        while not transcript.complete:
            left = timeout - call.clock.now() / 1000
            if left <= 0:
                raise NoReply(f"the text of the last words did not come within {timeout:g} s")
            await call.wait_for_news(left)
