"""What the gateway is told by its environment, and what one session is told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator

from bus.settings import BusSettings, is_loopback
from gateway import carriers, echo
from gateway.duplex import BACKCHANNELS, Duplex, spoken_words
from gateway.end_of_turn import EndOfTurn, EndOfTurnKind, problem, shared
from gateway.keys import read_keys
from gateway.limits import Limits
from gateway.own_tools import targets, wanted
from gateway.playback import LEAD
from gateway.speech import Endpointing

INSTRUCTIONS = (
    "You are a friendly voice assistant on the phone. Answer in short spoken sentences, without lists, "
    "markup or emoji. Ask when something is unclear."
)

SPEEDS = (0.25, 1.5)
"""How slow and how fast a voice may be asked to speak, as the Realtime protocol has it."""

RecordCalls = Annotated[
    Literal["false", "true", "ask"],
    BeforeValidator(lambda told: {"1": "true", "0": "false"}.get(str(told).lower(), str(told).lower())),
]


class GatewaySettings(BusSettings):
    """The gateway's environment. A session may differ from what is said here where its protocol lets it."""

    gateway_host: str = "127.0.0.1"
    """Where it listens. Anything but a loopback address needs API keys."""
    gateway_port: int = Field(default=8080, ge=1, le=65535)
    """On which port."""
    gateway_shares_port: bool = False
    """Whether other gateways may listen on the same port; each call comes to one of them."""
    drain_s: float = Field(default=3.0, ge=0, le=3600)
    """Seconds that calls may go on after SIGTERM, when no new ones are taken any more."""
    api_keys: SecretStr = SecretStr("")
    """Keys that clients must bring, comma-separated, each with or without a name: ``laptop:KEY``. Empty: no key needed,
    which only a loopback address allows."""
    api_keys_file: Path | None = None
    """A file with more of them, one on a line."""
    operators: str = ""
    """Names of the keys that see and stop every session, comma-separated; others their own. Empty: a key that is the
    only one."""
    max_sessions_per_key: int = Field(default=0, ge=0, le=10_000)
    """Sessions at a time with one key, over all gateways; 0: as many as there are."""
    max_session_s: float = Field(default=3600, ge=0, le=7 * 86_400)
    """Seconds that a session may last; 0: for ever."""
    max_idle_s: float = Field(default=900, ge=0, le=7 * 86_400)
    """Seconds without any message from a client after which its session is ended; 0: never."""
    max_message_bytes: int = Field(default=16 << 20, ge=65_536, le=256 << 20)
    """Bytes of one message at most."""
    own_tools: str = ""
    """Functions of the gateway's own that the model may call: comma-separated, of end_call, transfer, send_dtmf."""
    transfer_to: str = ""
    """Whom a call may be handed over to: NAME:+NUMBER, comma-separated."""
    twilio_auth_token: SecretStr = SecretStr("")
    """With it, only what Twilio has signed gets a phone call connected."""
    telnyx_public_key: str = ""
    """With it, only what Telnyx has signed gets a phone call connected: your account's public key. Needs
    ``bargein[telnyx]``."""
    public_url: str = ""
    """Where callers from outside reach this gateway, such as https://voice.example.com; empty: as they say."""
    allowed_origins: str = ""
    """Comma-separated origins, besides the gateway's own, whose pages may connect; ``*`` for any."""
    enable_barge_in: bool = True
    """False: half duplex, the microphone is ignored while the assistant speaks."""
    streaming_stt: bool = True
    """False: an utterance is transcribed when it has ended."""
    barge_in_min_ms: int = Field(default=700, ge=0, le=10_000)
    """Speech of this length interrupts though no word of it was recognised."""
    barge_in_protect_ms: int = Field(default=0, ge=0, le=600_000)
    """How long from its first sound a reply cannot be interrupted."""
    backchannels: str = ""
    """Comma-separated words that do not interrupt, instead of the English ones ("mm-hmm", "yeah", "okay", ...)."""
    eager_reply: bool = False
    """True: the reply is begun at a short pause and kept back until the caller's turn is known to be over."""
    end_of_turn_ms: int = Field(default=500, ge=100, le=10_000)
    """Silence that ends the caller's turn."""
    pause_ms: int = Field(default=200, ge=60, le=1000)
    """Silence at which the recogniser is asked for its text, and with EAGER_REPLY the model for its reply."""
    smart_turn_model: Path | None = None
    """The model for END_OF_TURN=smart-turn; absent: the one in an installed pipecat-ai."""
    end_of_turn: EndOfTurnKind = "vad"
    """What ends the caller's turn: a silence, or a silence whose length a model decides at each pause."""
    smart_turn_min_ms: int = Field(default=300, ge=200, le=10_000)
    """The silence that ends a turn which the model takes for complete."""
    smart_turn_max_ms: int = Field(default=1500, ge=200, le=10_000)
    """The silence that ends a turn which the model takes for incomplete."""
    echo_cancellation: echo.EchoCancellation = "auto"
    """auto: for clients that do not cancel echo themselves, if ``bargein[echo]`` is installed; on: for all."""
    instructions: str = INSTRUCTIONS
    """How the assistant behaves: the model's system prompt."""
    greeting: str = ""
    """What the assistant says first; empty: the caller begins."""
    speech_language: str = "en-US"
    """What is spoken and understood, as a language tag."""
    tts_voice: str = ""
    """Whose voice; empty: the engine's default for the language."""
    tts_speed: float = Field(default=1.0, ge=SPEEDS[0], le=SPEEDS[1])
    """How fast sessions are spoken to that do not say it themselves."""
    output_lead_ms: int = Field(default=200, ge=40, le=1000)
    """How far audio is sent ahead of its time."""
    max_sessions: int = Field(default=100, ge=1, le=10_000)
    """Sessions at a time at one gateway."""
    record_calls: RecordCalls = "false"
    """``true``: every call; ``ask``: those calls whose client connects with ``?record=true``."""
    recordings_dir: Path = Path("recordings")
    """Where recordings go; the console plays them from there."""
    mic_buffer_s: float = Field(default=30.0, ge=1, le=600)
    """Seconds of the caller's audio that are kept while Redis does not answer; 32 kB each."""
    jobs_redis_url: str = Field(default="", repr=False)
    """Where RQ keeps its jobs; empty: at REDIS_URL."""
    resume_s: float = Field(default=10.0, ge=1, le=3600)
    """Seconds that a session waits for its client to come back, when its gateway has died or the connection broke."""
    retention_s: int = Field(default=300, ge=0, le=30 * 86_400)
    """Seconds that a session's streams live after its end."""

    @field_validator("end_of_turn")
    @classmethod
    def _has_a_model(cls, kind: EndOfTurnKind, info: ValidationInfo) -> EndOfTurnKind:
        if wrong := problem(kind, info.data.get("smart_turn_model")):
            raise ValueError(wrong)
        return kind

    @field_validator("echo_cancellation")
    @classmethod
    def _can_cancel_echo(cls, wanted: echo.EchoCancellation) -> echo.EchoCancellation:
        if wanted == "on" and not echo.available():
            raise ValueError(echo.MISSING)
        return wanted

    @field_validator("telnyx_public_key")
    @classmethod
    def _can_be_checked(cls, key: str) -> str:
        if key and (wrong := carriers.problem(key)):
            raise ValueError(wrong)
        return key

    @field_validator("transfer_to")
    @classmethod
    def _has_numbers(cls, listed: str) -> str:
        targets(listed)
        return listed

    @field_validator("public_url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment):
            raise ValueError("expected https://host[:port][/path]")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _can_have_calls_recorded(self) -> GatewaySettings:
        if self.record_calls != "false":
            self.queue_address(self.jobs_redis_url)
        return self

    @model_validator(mode="after")
    def _is_closed_to_strangers(self) -> GatewaySettings:
        if not self.keys() and not is_loopback(self.gateway_host):
            raise ValueError(
                f"GATEWAY_HOST={self.gateway_host}: whoever reaches this machine could call. "
                "Set API_KEYS or API_KEYS_FILE, or GATEWAY_HOST=127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _has_operators(self) -> GatewaySettings:
        if unknown := self.operating() - self.keys().keys():
            raise ValueError(f"OPERATORS: no API key is called {', '.join(sorted(unknown))[:80]}")
        return self

    @property
    def shown(self) -> str:
        """Host and port as one can open them on this machine."""
        host = "127.0.0.1" if self.gateway_host in ("0.0.0.0", "::") else self.gateway_host
        return f"{f'[{host}]' if ':' in host else host}:{self.gateway_port}"

    def keys(self) -> dict[str, str]:
        """The API keys: name -> key. Raises ValueError, which names no key."""
        return read_keys(self.api_keys.get_secret_value(), self.api_keys_file)

    def operating(self) -> set[str]:
        """The names of the keys that see and stop every session."""
        named = {name for each in self.operators.split(",") if (name := each.strip())}
        return named or (set(keys) if len(keys := self.keys()) == 1 else set())

    def limits(self) -> Limits:
        """What every client has to keep to."""
        return Limits(self.max_session_s, self.max_idle_s, self.max_message_bytes)

    def profile(self) -> Profile:
        """What a new session starts with."""
        return Profile(
            instructions=self.instructions,
            greeting=self.greeting,
            language=self.speech_language,
            voice=self.tts_voice,
            speed=self.tts_speed,
            duplex=Duplex(
                may_interrupt=self.enable_barge_in,
                barge_in_min=self.barge_in_min_ms / 1000,
                protect=self.barge_in_protect_ms / 1000,
                eager=self.eager_reply,
                backchannels=spoken_words(self.backchannels) or BACKCHANNELS,
            ),
            endpointing=Endpointing(
                silence_ms=self.end_of_turn_ms,
                pause_ms=min(self.pause_ms, self.end_of_turn_ms),
                complete_ms=self.smart_turn_min_ms,
                incomplete_ms=self.smart_turn_max_ms,
            ),
            end_of_turn=shared(self.end_of_turn, self.smart_turn_model),
            echo_cancellation=self.echo_cancellation,
            streaming_stt=self.streaming_stt,
            own_tools=tuple(wanted(self.own_tools)),
            transfer_to=targets(self.transfer_to),
            lead=self.output_lead_ms / 1000,
            record=self.record_calls == "true",
            retention=self.retention_s,
            mic_buffer=self.mic_buffer_s,
        )


@dataclass(slots=True)
class Profile:
    """One session's settings. ``lead`` and ``retention`` in seconds."""

    instructions: str = INSTRUCTIONS
    greeting: str = ""
    language: str = "en-US"
    voice: str = ""
    speed: float = 1.0
    """How many times as fast as the voice speaks by itself."""
    duplex: Duplex = field(default_factory=Duplex)
    endpointing: Endpointing = field(default_factory=Endpointing)
    end_of_turn: EndOfTurn | None = None
    """The model that is asked at each pause."""
    echo_cancellation: echo.EchoCancellation = "off"
    by_hand: bool = False
    """Whether the client itself says when an utterance ends."""
    pre_roll_ms: int = 300
    text_only: bool = False
    tools: str = ""
    """Functions that the model may call, as the Realtime protocol writes them: a JSON list, or empty."""
    tool_choice: str = ""
    """Which of them: JSON, as the Realtime protocol writes it; empty: as the model likes."""
    parallel: bool | None = None
    """Whether it may call several at once; None: as its server has it."""
    own_tools: tuple[str, ...] = ()
    """Functions that the gateway itself carries out, of ``gateway.own_tools``."""
    transfer_to: dict[str, str] = field(default_factory=dict)
    """Whom a call may be handed over to: name -> number."""
    max_tokens: int = 0
    """Tokens of a reply at most; 0: as the model likes."""
    streaming_stt: bool = True
    lead: float = LEAD
    record: bool = False
    retention: float = 300.0
    mic_buffer: float = 30.0
    """Seconds of the caller's audio that are kept while Redis does not answer."""
    key: str = ""
    """The name of the API key that the session was begun with."""
    client: str = ""
    """What its client's protocol needs besides, when another gateway goes on with the session: JSON."""

    @property
    def rules(self) -> Duplex:
        """The turn logic's rules; a reply without audio, which cannot be kept back, is never begun ahead of the end."""
        return replace(self.duplex, eager=self.duplex.eager and not self.text_only)

    def shared(self) -> dict[str, str]:
        """What the workers read of it, as fields of the session's config hash."""
        return {
            "instructions": self.instructions,
            "language": self.language,
            "voice": self.voice,
            "speed": str(self.speed),
            "streaming_stt": "1" if self.streaming_stt else "0",
            "record": "1" if self.record else "0",
            "key": self.key,
            "client": self.client,
        }
