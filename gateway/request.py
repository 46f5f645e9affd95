"""What one request for a turn asks for, where it differs from its session."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from bus.events import Said
from gateway.own_tools import specs
from gateway.settings import Profile


@dataclass(frozen=True, slots=True)
class Request:
    """None everywhere: as the session has it. ``tools``, ``tool_choice`` and ``parallel`` as in ``Profile``."""

    instructions: str | None = None
    text_only: bool | None = None
    tools: str | None = None
    tool_choice: str | None = None
    parallel: bool | None = None
    max_tokens: int | None = None
    conversation: tuple[Said, ...] | None = None
    """What the model is shown instead of the session's conversation."""
    voice: str | None = None
    """As in ``Profile``."""

    def manner(self) -> str:
        """What the voice is told: ``SpeakOffer.manner``."""
        return "" if self.voice is None else json.dumps({"voice": self.voice}, ensure_ascii=False)

    def options(self, profile: Profile) -> str:
        """What a worker is told besides the instructions: JSON, empty when there is nothing to tell."""
        tools = json.loads((profile.tools if self.tools is None else self.tools) or "[]")
        tools = [tool for tool in tools if tool.get("name") not in profile.own_tools]
        tools += specs(profile.own_tools, profile.transfer_to)
        choice = profile.tool_choice if self.tool_choice is None else self.tool_choice
        most = profile.max_tokens if self.max_tokens is None else self.max_tokens
        told: dict[str, Any] = {}
        if tools:
            told |= {"tools": tools, "tool_choice": json.loads(choice or '"auto"')}
            if (parallel := profile.parallel if self.parallel is None else self.parallel) is not None:
                told["parallel"] = parallel
        if most:
            told["max_tokens"] = most
        if self.conversation is not None:
            told["conversation"] = [
                {key: value for key, value in (("role", each.role), ("text", each.text), ("turn", each.turn),
                 ("call_id", each.call_id), ("name", each.name)) if value}
                for each in self.conversation
            ]  # fmt: skip
        return json.dumps(told, ensure_ascii=False, separators=(",", ":")) if told else ""
