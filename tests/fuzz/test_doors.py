"""What comes in over HTTP: paths, queries, headers, bodies, forms, and the first message of a phone line."""

import asyncio
import base64
import contextlib
import json
from urllib.parse import quote_from_bytes
from xml.etree import ElementTree

import pytest
from hypothesis import strategies as st
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketDisconnect

from bus.foreign import read_json
from gateway.codecs import CODECS
from gateway.door import allowed
from gateway.protocols.dialect import TELNYX, TWILIO
from gateway.protocols.realtime_config import RealtimeConfig
from gateway.protocols.realtime_error import ProtocolError
from gateway.protocols.realtime_items import said, whole
from gateway.protocols.twilio import TwilioConnection
from gateway.settings import Profile
from tests.fuzz.garbage import ANY_TEXT, VALUES, as_bytes, bent, fuzzed, json_text
from tests.fuzz.test_addresses import URLS
from tests.stack import running_stack

KEY = "the-right-key"
PATHS = st.sampled_from([
    "/", "/health", "/ready", "/metrics", "/console", "/console/sessions", "/console/sessions/s0-abcd",
    "/console/sessions/s99999-abcd", "/console/sessions/..%2f..", "/console/sessions/s0-abcd/recording",
    "/cancel/s0-abcd", "/cancel/s5-abcd", "/cancel/\x00", "/page/../app.py", "/page/app.js", "/twilio/voice",
    "/twilio/after", "/telnyx/voice", "/telnyx/after", "/v1/realtime/client_secrets", "/page/\x00",
]) | ANY_TEXT.map(lambda text: "/console/sessions/" + text)  # fmt: skip
WORDS = st.sampled_from([
    b"", b"Bearer " + KEY.encode(), b"Bearer \xff", b"bearer  x", b"Basic a", b"http://[", b"http://evil", b"null",
    b"\xff", b"http://host", b"-1", b"99999999999999", b"x" * 5000, b"gzip", b"bytes=5-1", b"bytes=-", b"a=b; c",
    b"sess_s0-abcd",
]) | st.binary(max_size=20)  # fmt: skip
HEADERS = st.lists(st.tuples(st.sampled_from([
    b"authorization", b"origin", b"host", b"content-length", b"content-type", b"range", b"if-modified-since", b"cookie",
    b"x-twilio-signature", b"telnyx-signature-ed25519", b"telnyx-timestamp",
    b"x-bargein-session", b"sec-websocket-protocol", b"accept-encoding", b"x-forwarded-proto",
]), WORDS), max_size=4)  # fmt: skip
NAMES = ("From", "To", "CallSid", "CallerName", "greeting", "language", "a", "ticket")
QUERIES = st.binary(max_size=20).map(lambda raw: quote_from_bytes(raw, safe="=&").encode())
FORMS = st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=20)), max_size=5).map(
    lambda fields: "&".join(f"{name}={quote_from_bytes(value)}" for name, value in fields).encode()
) | st.binary(max_size=60)  # fmt: skip
SESSION = {"type": "realtime", "instructions": "x", "audio": {"input": {"turn_detection": {
    "type": "server_vad", "threshold": 0.5, "silence_duration_ms": 500},
    "format": {"type": "audio/pcm", "rate": 24000}}, "output": {"voice": "alloy", "speed": 1.0}},
    "tools": [{"type": "function", "name": "f", "parameters": {}}],
    "tool_choice": "auto", "max_output_tokens": 50}  # fmt: skip
SECRETS = [{"expires_after": {"anchor": "created_at", "seconds": 600}, "session": SESSION}, {"session": SESSION}, {}]
BODIES = json_text(SECRETS).map(as_bytes) | FORMS | st.just(b"x" * 300_000)


async def asked(app, method, path, query, headers, body):
    """(status, headers, body) of a request, handed to the app as a server would."""
    sent, given = [], [body[:7], body[7:]]

    async def receive():
        if given:
            return {"type": "http.request", "body": given.pop(0), "more_body": bool(given)}
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode("utf-8", "replace"), "query_string": query, "root_path": "",
        "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "app": app,
    }  # fmt: skip
    await app(scope, receive, send)
    start = sent[0]
    return start["status"], dict(start["headers"]), b"".join(each.get("body", b"") for each in sent[1:])


@contextlib.contextmanager
def house(**settings):
    """(a runner, its app), with everything running."""
    with asyncio.Runner() as runner:
        around = running_stack(**settings)
        stack = runner.run(around.__aenter__())
        try:
            yield runner, stack.app
        finally:
            runner.run(around.__aexit__(None, None, None))


@pytest.mark.parametrize("settings", [{}, {"api_keys": KEY}, {"twilio_auth_token": "t", "public_url": "https://x/"}])
def test_any_request(settings):
    """Any path, query, headers and body get an answer of HTTP's that is no 5xx; JSON can be read, TwiML is XML."""
    with house(**settings) as (runner, app):

        @fuzzed(st.sampled_from(["GET", "POST", "HEAD", "PUT", "\xff"]), PATHS, QUERIES, HEADERS, BODIES, cost=2)
        def ask(method, path, query, headers, body):
            path = path.encode("utf-8", "replace").decode()
            status, told, answer = runner.run(asked(app, method, path, query, headers, body))
            assert status < 500, (status, answer[:300])
            kind = told.get(b"content-type", b"")
            if kind.startswith(b"application/json") and method != "HEAD":
                json.loads(answer, parse_constant=lambda name: pytest.fail(name))

        @fuzzed(st.sampled_from(["/twilio/voice", "/twilio/after", "/telnyx/voice", "/telnyx/after"]), QUERIES, FORMS)
        def call(path, query, body):
            status, _, answer = runner.run(asked(app, "POST", path, query, [], body))
            assert status in (200, 400, 403)
            if status == 200:
                assert ElementTree.fromstring(answer).tag == "Response"

        @fuzzed(json_text(SECRETS))
        def secret(text):
            key = [(b"authorization", b"Bearer " + KEY.encode())]
            path = "/v1/realtime/client_secrets"
            status, _, answer = runner.run(asked(app, "POST", path, b"", key, as_bytes(text)))
            body = json.loads(answer, parse_constant=lambda name: pytest.fail(name))
            assert (status == 200 and body["value"].startswith("ek_")) or (status == 400 and body["error"]["message"])

        ask(), call(), secret()


@fuzzed(WORDS | URLS.map(as_bytes), WORDS)
def test_any_origin(origin, host):
    """A page may connect or not; nothing that calls itself one is an error."""
    scope = {"type": "http", "headers": [(b"origin", origin), (b"host", host)]}
    assert allowed(HTTPConnection(scope), "https://a, https://b/") in (True, False)


@fuzzed(st.lists(bent([SESSION]) | VALUES.filter(lambda value: isinstance(value, dict)), max_size=3))
def test_any_settings_of_a_client(changes):
    """They are taken, or a ProtocolError says which; the session object stays one that can be told and kept."""
    config = RealtimeConfig(Profile(), "m", frozenset())
    for sent in changes:
        try:
            change = read_json(json.dumps(sent))
        except ValueError:
            continue  # that is no JSON: it never gets here
        before = json.dumps(config.view("s0-abcd"), sort_keys=True)
        try:
            profile = config.update(change)
        except ProtocolError as error:
            assert error.message
            assert json.dumps(config.view("s0-abcd"), sort_keys=True) == before
        else:
            assert isinstance(profile.instructions, str) and profile.speed > 0
        view = json.loads(json.dumps(config.view("s0-abcd"), allow_nan=False))
        again = RealtimeConfig.again(Profile(), frozenset(), config.saved())
        assert again.view("s0-abcd") == {**view, "id": "sess_s0-abcd"}


CODED = st.sampled_from(sorted(CODECS))


@fuzzed(CODED, st.binary(max_size=600))
def test_any_audio_in_any_codec(name, data):
    """Every byte is a sample or half of one; what was decoded is coded and decoded to the same again."""
    codec = CODECS[name]
    pcm = codec.decode(data)
    assert len(pcm) == len(data) // codec.width * codec.width * 2 // codec.width or codec.width == 2
    pcm = pcm[: len(pcm) // 2 * 2]
    assert codec.decode(codec.encode(pcm)) == pcm
    assert codec.milliseconds(len(data)) >= 0


STARTS = [
    {"event": "connected"},
    {"event": "start", "streamSid": "MZ1", "start": {"callSid": "CA1", "customParameters": {
        "greeting": "x", "key": KEY, "ticket": "ek_x", "own_tools": "end_call"}}},
    {"event": "start", "stream_id": "1", "start": {"call_control_id": "v3:x", "custom_parameters": {"greeting": "x"},
        "media_format": {"encoding": "PCMA", "sample_rate": 8000, "channels": 1}}},
]  # fmt: skip


class Line:
    """A socket that says some texts and then closes."""

    def __init__(self, texts):
        self.texts = list(texts)
        self.application_state = None

    async def receive(self):
        if not self.texts:
            return {"type": "websocket.disconnect", "code": 1006}
        text = self.texts.pop(0)
        return {"type": "websocket.receive", "bytes" if isinstance(text, bytes) else "text": text}


@fuzzed(st.lists(json_text(STARTS) | st.binary(max_size=30), max_size=4), st.sampled_from([TWILIO, TELNYX]))
def test_any_beginning_of_a_phone_line(texts, dialect):
    """A call begins with a start message whose names are texts; without one its socket is closed."""
    begun = []

    async def admit(parameters):
        assert all(isinstance(each, str) for pair in parameters.items() for each in pair)
        return True

    async def recall(call):
        assert isinstance(call, str)
        call.encode()

    def make_session(outlet, profile, rate, *, taken=None):
        begun.append(profile)
        raise WebSocketDisconnect()

    async def ring():
        from gateway.limits import Limits

        connection = TwilioConnection(Line(texts), "s0-abcd", Profile(), Limits(), dialect)
        with contextlib.suppress(WebSocketDisconnect):
            await connection.run(make_session, admit, recall, None)

    asyncio.run(ring())
    assert len(begun) <= 1


ITEMS = [
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "1"},
]


def test_base64_of_every_length():
    """What the page and the SDKs send as base64 is what arrives, for every length."""
    for size in range(64):
        data = bytes(range(size))
        assert base64.b64decode(base64.b64encode(data), validate=True) == data
    assert said(whole(ITEMS[0], "item_1")).text == "hi"
