"""What the conversation's items are called, in the history as at the client."""


def utterance_item(session: str, utterance: int) -> str:
    """An utterance's message."""
    return f"item_{session.replace('-', '_')}_u{utterance}"


def turn_item(session: str, turn: int) -> str:
    """A turn's message."""
    return f"item_{session.replace('-', '_')}_t{turn}"


def call_item(session: str, turn: int, index: int) -> str:
    """A turn's function call, counted from 0."""
    return f"{turn_item(session, turn)}f{index}"
