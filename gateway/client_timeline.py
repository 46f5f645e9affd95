"""What happens in a call, as lines for a terminal or as JSON."""

from __future__ import annotations

import json

from gateway.client_ear import Event


class Timeline:
    """Turns the events of a call into lines, each headed by milliseconds since the call began."""

    def __init__(self, verbose: bool = False) -> None:
        self._verbose = verbose
        self._responses: list[str] = []
        self._understood = ""

    def line(self, at: float, event: Event) -> str | None:
        """The line for an event; None for one that tells a reader nothing new."""
        text = self._text(event)
        return None if text is None else f"{at:7.0f} ms  {text}"

    def _text(self, event: Event) -> str | None:
        kind = str(event.get("type", "")).removeprefix("input_audio_buffer.").removeprefix("conversation.item.")
        match kind:
            case "session.created":
                return "connected"
            case "bargein.session":
                return f"session {event['session_id']}"
            case "client.speaks":
                return f"caller says {event['name'] or 'something'} ({event['seconds']:.1f} s)"
            case "speech_started":
                return "speech started"
            case "speech_stopped":
                return "speech stopped"
            case "bargein.transcript.partial":
                changed, self._understood = event["text"] != self._understood, event["text"]
                return f'understood so far: "{event["text"]}"' if changed else None
            case "input_audio_transcription.completed":
                self._understood = ""
                return f'understood: "{event["transcript"].strip()}"'
            case "input_audio_transcription.failed":
                return f"not understood: {event['error'].get('message', '')}"
            case "response.output_audio_transcript.done":
                return f'{self._name(event["response_id"])} says: "{event["transcript"].strip()}"'
            case "response.output_text.done":
                return f'{self._name(event["response_id"])} writes: "{event["text"].strip()}"'
            case "bargein.output.held":
                return f"{self._name(event['response_id'])} held"
            case "bargein.output.resumed":
                return f"{self._name(event['response_id'])} resumed from {event['audio_start_ms']:.0f} ms of it"
            case "response.created":
                return f"{self._name(event['response']['id'])} created"
            case "response.done":
                return self._done(event["response"])
            case "client.heard":
                since = event["since_caller_ms"]
                when = "" if since is None else f", {since:.0f} ms after the caller's last sound"
                return f"{self._name(event['response_id'])} is heard{when}"
            case "client.played_out":
                return f"{self._name(event['response_id'])} was heard to its end ({event['heard_ms'] / 1000:.1f} s)"
            case "client.silenced":
                onset = event["onset_to_silence_ms"]
                measured = "" if onset is None else f"; onset to silence {onset:.0f} ms"
                return f"{self._name(event['response_id'])} silent after {event['played_ms']:.0f} ms of it{measured}"
            case "client.lost":
                return f"{event['reason']}; trying again"
            case "client.returned":
                return f"back in the session, from {event['audio_start_ms']:.0f} ms of what was said"
            case "bargein.input.lost":
                return f"{event['lost_ms']} ms of what was said were lost"
            case "client.summary":
                saved = f"; saved {event['saved']}" if event["saved"] else ""
                heard = (
                    f"heard {event['heard_ms'] / 1000:.1f} s of speech" if event["heard_ms"] else "no reply was heard"
                )
                return f"{heard}; stale audio: {event['stale_samples']} samples{saved}"
            case "bargein.step":
                if not self._verbose:
                    return None
                detail = f" ({event['detail']})" if event.get("detail") else ""
                return f"  turn {event['turn']} {event['step']} at {event['at_ms']:.0f} ms of the server{detail}"
            case "error":
                error = event.get("error") or {}
                code = f" ({error['code']})" if error.get("code") else ""
                return f"error: {error.get('message', '')}{code}"
        return None

    def _done(self, response: Event) -> str:
        details = response.get("status_details") or {}
        reason = details.get("reason") or (details.get("error") or {}).get("message")
        return f"{self._name(response['id'])} {response['status']}{f' ({reason})' if reason else ''}"

    def _name(self, response_id: str) -> str:
        if response_id not in self._responses:
            self._responses.append(response_id)
        return f"response {self._responses.index(response_id) + 1}"


def json_line(at: float, event: Event) -> str:
    """An event as one line of JSON with ``t_ms`` first; audio is given as its number of base64 characters."""
    if event.get("type") == "response.output_audio.delta":
        event = {**event, "delta": f"<{len(event['delta'])} characters>"}
    return json.dumps({"t_ms": round(at, 1), **event}, ensure_ascii=False)
