"""One response on its way to a Realtime client: its output items and its view."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway.codecs import PCM, Codec


@dataclass(slots=True)
class Response:
    """A response: at most one message, and the functions that it calls, in the order in which they began."""

    id: str
    item: str
    """What its message is called."""
    text_only: bool
    conversation: str | None
    """The conversation that it joins; None: it stands outside."""
    metadata: dict[str, str] | None = None
    most: Any = "inf"
    """Its ``max_output_tokens``."""
    codec: Codec = PCM
    spoken: dict[str, Any] = field(default_factory=dict)
    """``format`` and ``voice`` of its audio."""
    transcript: str = ""
    output: list[dict[str, Any]] = field(default_factory=list)
    message: int | None = None
    """The message's place in the output."""
    counts: tuple[int, int] | None = None
    """Tokens of (the prompt, the reply), once the reply's text is complete."""
    finish: str = ""
    sent: int = 0
    """Samples of its audio that were sent."""

    def where(self) -> dict[str, Any]:
        """What every event about its message carries."""
        return {"response_id": self.id, "item_id": self.item, "output_index": self.message, "content_index": 0}

    def message_item(self, status: str) -> dict[str, Any]:
        """Its message as an item of the conversation."""
        content: list[dict[str, Any]] = []
        if status != "in_progress":
            kind, name = ("output_text", "text") if self.text_only else ("output_audio", "transcript")
            content = [{"type": kind, name: self.transcript}]
        item = {"id": self.item, "object": "realtime.item", "type": "message", "role": "assistant"}
        return {**item, "status": status, "content": content}

    def part(self) -> dict[str, Any]:
        """Its message's one part, as ``response.content_part`` events carry it."""
        return (
            {"type": "text", "text": self.transcript}
            if self.text_only
            else {"type": "audio", "transcript": self.transcript}
        )

    def view(self, status: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
        """The response object."""
        view: dict[str, Any] = {
            "object": "realtime.response",
            "id": self.id,
            "status": status,
            "output": [] if status == "in_progress" else list(self.output),
            "output_modalities": ["text"] if self.text_only else ["audio"],
            "max_output_tokens": self.most,
        }
        if self.spoken and not self.text_only:
            view["audio"] = {"output": self.spoken}
        if self.conversation is not None:
            view["conversation_id"] = self.conversation
        if self.metadata is not None:
            view["metadata"] = self.metadata
        if details is not None:
            view["status_details"] = details
        if status != "in_progress":
            view["usage"] = self._usage()
        return view

    def _usage(self) -> dict[str, Any]:
        # Of a reply that was cut short, what it cost until then is not known: its text is estimated.
        shown, written = self.counts or (0, -(-len(self.transcript) // 4))
        return {
            "total_tokens": shown + written,
            "input_tokens": shown,
            "output_tokens": written,
            "input_token_details": {"text_tokens": shown, "audio_tokens": 0, "cached_tokens": 0},
            "output_token_details": {"text_tokens": written, "audio_tokens": 0},
        }
