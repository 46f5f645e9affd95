"""``python -m gateway.client``: a call from a terminal."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from gateway.client import DEFAULT_URL, Call, CallError, HungUp, NoReply, Unreachable
from gateway.client_audio import RATE, AudioError, Int16, load
from gateway.client_ear import Event, Tell
from gateway.client_timeline import Timeline, json_line
from gateway.client_transcribe import FORMATS, Live, Transcript, address, form_of, transcribe

OK, NO_REPLY, BAD_ARGUMENTS, NO_CALL, INTERRUPTED = 0, 1, 2, 3, 130

EPILOG = f"""exit codes: {OK} every awaited response ended and audio was heard; {NO_REPLY} none came, or not all in
time; {BAD_ARGUMENTS} bad arguments; {NO_CALL} the server cannot be reached, is not ready, or ended the call"""


@dataclass(frozen=True)
class Plan:
    """What to do in a call."""

    question: Int16
    question_name: str
    barge_in: Int16 | None
    barge_in_name: str
    barge_in_after: float
    """Seconds after the first response began to be heard."""
    turns: int
    timeout: float
    """Seconds the whole call may take."""


def main(argv: Sequence[str] | None = None, speed: float = 1.0) -> int:
    """Make the call that the arguments describe; the exit code. ``speed`` as in ``Call``."""
    try:
        options = _parser().parse_args(argv)
        plan = _plan(options)
        if options.out is not None and not options.out.absolute().parent.is_dir():
            raise AudioError(f"{options.out}: there is no folder {options.out.absolute().parent}")
    except AudioError as error:
        print(error, file=sys.stderr)
        return BAD_ARGUMENTS
    if options.transcribe:
        return _transcribe(options, plan, speed)
    timeline = Timeline(options.verbose)

    def show(at: float, event: Event) -> None:
        line = json_line(at, event) if options.json else timeline.line(at, event)
        if line is not None:
            print(line, flush=True)

    try:
        call = Call(options.url or DEFAULT_URL, listener=show, speed=speed, key=os.environ.get("BARGEIN_API_KEY", ""))
    except ValueError as error:
        print(error, file=sys.stderr)
        return BAD_ARGUMENTS
    try:
        return asyncio.run(_make(call, plan, options.out, show))
    except Unreachable as error:
        print(error, file=sys.stderr)
        return NO_CALL
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        print(f"{options.out}: {error.strerror or error}", file=sys.stderr)
        return BAD_ARGUMENTS


def _transcribe(options: argparse.Namespace, plan: Plan, speed: float) -> int:
    """Print the words as they come; without ``--out`` a format other than text is printed instead, at the end."""
    transcript, form = Transcript(), form_of(options.out, options.format)
    quiet = options.out is None and form != "txt"

    def show(at: float, event: Event) -> None:
        transcript.take(event)
        if options.json:
            print(json_line(at, event), flush=True)

    listener = show if quiet or options.json else Live(transcript)
    try:
        urls = [address(url) for url in options.url or [DEFAULT_URL]]
        call = Call(urls, listener=listener, speed=speed, key=os.environ.get("BARGEIN_API_KEY", ""))
        timeout = max(options.timeout, len(plan.question) / RATE + 30)
        asyncio.run(transcribe(call, plan.question, transcript, timeout))
        if options.out is not None:
            options.out.write_text(transcript.written(form))
        elif quiet and not options.json:
            print(transcript.written(form), end="")
    except ValueError as error:
        print(error, file=sys.stderr)
        return BAD_ARGUMENTS
    except OSError as error:
        print(f"{options.out}: {error.strerror or error}", file=sys.stderr)
        return BAD_ARGUMENTS
    except CallError as error:
        print(error, file=sys.stderr)
        return NO_REPLY if isinstance(error, NoReply) else NO_CALL
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK if transcript.lines() else NO_REPLY


async def _make(call: Call, plan: Plan, out: Path | None, show: Tell) -> int:
    code = OK
    try:
        async with call:
            await _talk(call, plan)
    except (NoReply, HungUp) as error:
        print(error, file=sys.stderr)
        code = NO_REPLY if isinstance(error, NoReply) else NO_CALL
    finally:
        heard = call.recording()
        if out is not None and len(heard):
            with out.open("wb") as file:
                soundfile.write(file, heard, RATE, subtype="PCM_16", format="WAV")
    summary = {"heard_ms": sum(reply.heard_ms for reply in call.replies), "stale_samples": call.stale_samples}
    show(call.clock.now(), {"type": "client.summary", **summary, "saved": str(out) if out and len(heard) else None})
    return code or (OK if len(heard) else NO_REPLY)


async def _talk(call: Call, plan: Plan) -> None:
    """Say the question, interrupt the first response if so planned, wait for the responses. Raises CallError."""

    def left() -> float:
        return plan.timeout - call.clock.now() / 1000

    call.play(plan.question, plan.question_name)
    if plan.barge_in is not None:
        first = await call.reply_started(left())
        began = call.clock.now() if first.started is None else first.started
        await call.clock.sleep_until(began + plan.barge_in_after * 1000)
        call.play(plan.barge_in, plan.barge_in_name)
    for _ in range(plan.turns):
        await call.reply(left())


def _plan(options: argparse.Namespace) -> Plan:
    barge_in = None if options.barge_in is None else load(options.barge_in)
    return Plan(
        question=load(options.question),
        question_name=options.question.name,
        barge_in=barge_in,
        barge_in_name="" if options.barge_in is None else options.barge_in.name,
        barge_in_after=options.barge_in_after,
        turns=options.turns or (1 if barge_in is None else 2),
        timeout=options.timeout,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gateway.client",
        description="Speak a sound file to the assistant, hear the reply, and print what happened when.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("question", type=Path, help="the sound file to say: any rate and number of channels")
    parser.add_argument(
        "--url", action="append",
        help=f"once more for each further gateway, to go on at should the one before die; default: {DEFAULT_URL}",
    )  # fmt: skip
    parser.add_argument("--barge-in", type=Path, metavar="FILE", help="a sound file with which to interrupt")
    parser.add_argument(
        "--barge-in-after", type=_seconds, default=2.0, metavar="S",
        help="how long the first response is heard before that; default: %(default)s s",
    )  # fmt: skip
    parser.add_argument(
        "--turns", type=_count, metavar="N", help="responses to await; default: 1, or 2 with --barge-in"
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=60.0, metavar="S", help="for all of it; default: %(default)s s"
    )
    parser.add_argument(
        "--transcribe", action="store_true", help="only print what is understood of the file; there is no reply"
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="of a transcript; default: what --out is called, else txt (.srt, .vtt)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="save what was heard as a WAV (24 kHz), silences kept; a transcript as it is",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show the server's steps as well")
    parser.add_argument("--json", action="store_true", help="print every event as a line of JSON instead")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected an integer >= 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, a number >= 0")
    return value
