"""One runner's connection, from its first message to its close: what may come when, and what is answered. No sockets, no clock.

    NEW ----- register, good -----> REGISTERED ---- its close, an error, silence ----> CLOSED
     |                                                                                    ^
     +----- no register in time, an error, refused ---------------------------------------+

Told: texts and other frames as they come, ticks, the end. Tells: ``house`` (the registry) what a runner says, and ``wake`` that
there is something in ``out`` to be written; ``closing`` says with which code the connection is to be closed behind it.
Invariants: nothing but ``register`` comes first, and it comes once; the token is compared in constant time and never kept;
``out`` holds :data:`MOST_QUEUED` messages at the most (who does not read that much is closed); who says more than
:data:`RATE` a second for long is closed. Must never: say in an error what a token was, or take a message after one.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from hmac import compare_digest
from typing import Final, Protocol

import msgspec

from fastgw.digests import digest
from fastgw.protocol import runner_words as words
from fastgw.protocol.runner_words import (
    AUTH_FAILED,
    PARSE_ERROR,
    PROTOCOL_ERROR,
    TIMEOUT,
    Command,
    CommandResponse,
    Register,
    RunnerStatus,
    Unreadable,
)

REGISTER_S: Final = 10.0
"""Within which ``register`` comes."""
MOST_QUEUED: Final = 64
RATE: Final = 20
"""Messages a second, in the long run; a long one counts as several (:data:`WEIGHT_BYTES`)."""
BURST: Final = 200
WEIGHT_BYTES: Final = 4096
MAX_TOLD_CHARS: Final = 200
"""Of an error's message: it may quote what it is about."""

# RFC 6455 §7.4.1, and its registry.
DONE: Final = 1000
AWAY: Final = 1001
UNSUPPORTED: Final = 1003
INVALID: Final = 1007
POLICY: Final = 1008
LATER: Final = 1013


class State(enum.Enum):
    """Where a connection stands; see the head of this file."""

    NEW = "new"
    REGISTERED = "registered"
    CLOSED = "closed"


class Refused(Exception):
    """A runner that may not register; the text says why, and what to do. ``retry_after_s``: when it may come again, None = that
    cannot be said."""

    def __init__(
        self, message: str, code: str = PROTOCOL_ERROR, close: int = POLICY, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.close = close
        self.retry_after_s = retry_after_s


class Terms:
    """What holds for all runners. ``token``: the digest of what they register with. (Changed in place: connections have it.)"""

    __slots__ = ("ping_s", "timeout_s", "token")

    def __init__(self, token: str, ping_s: float, timeout_s: float) -> None:
        self.set(token, ping_s, timeout_s)

    def set(self, token: str, ping_s: float, timeout_s: float) -> None:
        """From now on go by these; "" = nobody may register."""
        self.token = digest(token.encode()) if token else b""
        self.ping_s = ping_s
        self.timeout_s = timeout_s

    def opens(self, token: str) -> bool:
        """Whether this is the token: takes as long wherever it differs."""
        given = digest(token.encode("utf-8", "surrogatepass"))
        return bool(self.token) and compare_digest(given, self.token)


class House(Protocol):
    """What a connection tells of its runner."""

    def join(self, session: Session, message: Register, now: float) -> None:
        """Raises :class:`Refused`."""
        ...

    def reported(self, session: Session, status: RunnerStatus, now: float) -> None: ...

    def answered(self, session: Session, response: CommandResponse, now: float) -> None: ...

    def left(self, session: Session, now: float) -> None:
        """It has ended, once; called only of one that had joined."""
        ...


def _nobody_writes() -> None:
    """Until somebody is told."""


class Session:
    """See the head of this file. ``peer``: the address that the runner comes from."""

    __slots__ = (
        "_allowance", "_began", "_counted_at", "_goes", "_house", "_page", "_pinged", "_terms", "_token", "claimed", "closing",
        "out", "peer", "runner_id", "seen_at", "state", "told", "tunnelled", "wake", "why",
    )  # fmt: skip

    def __init__(self, house: House, terms: Terms, peer: str, now: float) -> None:
        self._house = house
        self._terms = terms
        self._token = b""  # its digest, once that has let it in
        self.peer = peer
        self.state = State.NEW
        self.tunnelled = False  # requests for its engine go over this very connection
        self.claimed = ""  # the id that it comes with
        self.runner_id = ""  # once it has registered
        self.out: deque[bytes] = deque()
        self.closing: tuple[int, str] | None = None
        self.why = ""  # it ended: an error's code, or "";
        self.told = ""  # and what it was told
        self.wake: Callable[[], None] = _nobody_writes
        self.seen_at = self._began = now
        self._page = False  # it speaks by the names of the protocol's page
        self._goes = False  # it knows `go_away`
        self._pinged = False  # since it was heard last
        self._allowance: float = BURST
        self._counted_at = now

    def __repr__(self) -> str:
        return f"<Session {self.runner_id or self.peer} {self.state.value} queued={len(self.out)}>"

    # --- what comes
    def on_text(self, text: str | bytes, now: float) -> None:
        """A message."""
        if not self._heard(now, 1 + len(text) / WEIGHT_BYTES):
            return
        try:
            message = words.from_runner(text)
        except Unreadable as error:
            self.fail(error.code, str(error), INVALID if error.code == PARSE_ERROR else POLICY, now)
            return
        if self.state is State.NEW:
            if isinstance(message, Register):
                self._register(message, now)
            else:
                self.fail(PROTOCOL_ERROR, "The first message must be `register`.", POLICY, now)
        elif isinstance(message, Register):
            self.fail(PROTOCOL_ERROR, "This connection has registered already.", POLICY, now)
        elif isinstance(message, CommandResponse):
            if message.status is not None:
                self._house.reported(self, message.status, now)
            self._house.answered(self, message, now)
        else:
            self._house.reported(self, message, now)

    def on_binary(self, now: float) -> None:
        """A frame of bytes: there are none in this version."""
        if self._heard(now, 1.0):
            self.fail(PROTOCOL_ERROR, "Messages are text.", UNSUPPORTED, now)

    def on_control(self, now: float) -> bool:
        """A ping or a pong of the WebSocket's own; False = too many of them: it closes."""
        return self._heard(now, 1.0)

    def on_end(self, now: float) -> None:
        """The connection is no more."""
        self._end(now)

    def tick(self, now: float, unix: float) -> None:
        """Time goes by; ``unix``: the time of day."""
        if self.state is State.NEW:
            if now - self._began >= REGISTER_S:
                self.fail(TIMEOUT, f"There was no `register` in {REGISTER_S:g} s.", POLICY, now)
        elif self.state is State.REGISTERED:
            silent_s = now - self.seen_at
            if silent_s >= self._terms.timeout_s:
                self.fail(TIMEOUT, f"Nothing was heard for {self._terms.timeout_s:g} s.", POLICY, now)
            elif silent_s >= self._terms.ping_s and not self._pinged:
                self.ask(unix, now)

    def ask(self, unix: float, now: float) -> None:
        """Have it say something."""
        self._pinged = True
        self.say(words.Ping(timestamp=int(unix)), now)

    # --- what is said
    def say(self, message: msgspec.Struct, now: float) -> bool:
        """Put ``message`` behind what waits; False = it will not be said: the connection closes, or has."""
        if self.closing is not None or self.state is State.CLOSED:
            return False
        if len(self.out) >= MOST_QUEUED:
            self.out.clear()
            self.close(POLICY, "the runner does not read", now)
            return False
        self.out.append(words.written(message, self._page))
        self.wake()
        return True

    def command(self, message: Command, now: float) -> bool:
        """As :meth:`say`; what comes of it is told to the house."""
        return self.state is State.REGISTERED and self.say(message, now)

    def go_away(self, now: float) -> bool:
        """Have it dial again, and stay here meanwhile; False = it does not know how."""
        return self._goes and self.say(words.GoAway(), now)

    def fail(self, code: str, message: str, close: int, now: float, retry_after_s: float | None = None) -> None:
        """Say what is wrong, and close."""
        if self.closing is None and self.state is not State.CLOSED:
            self.why = code
            self.told = "".join([char if char.isprintable() else " " for char in message[:MAX_TOLD_CHARS]])
            self.say(words.Error(code=code, message=message[:MAX_TOLD_CHARS], retry_after_s=retry_after_s), now)
            self.close(close, code, now)

    def judge(self, now: float) -> None:
        """The terms are others: a token that is none any more keeps nobody in."""
        if self.state is State.REGISTERED and self._token != self._terms.token:
            self.fail(AUTH_FAILED, "The token with which runners register is another now.", POLICY, now)

    def close(self, code: int, reason: str, now: float) -> None:
        """Close behind what waits to be written."""
        if self.closing is None and self.state is not State.CLOSED:
            self.closing = (code, reason)
            self._end(now)
            self.wake()

    # --- within
    def _heard(self, now: float, weight: float) -> bool:
        """It has said something; False = it is not listened to any more."""
        if self.closing is not None or self.state is State.CLOSED:
            return False
        self._allowance = min(BURST, self._allowance + (now - self._counted_at) * RATE) - weight
        self._counted_at = self.seen_at = now
        self._pinged = False
        if self._allowance < 0:
            self.fail(PROTOCOL_ERROR, f"More than {RATE:g} messages a second come.", POLICY, now)
            return False
        return True

    def _register(self, message: Register, now: float) -> None:
        token, message.auth_token = message.auth_token, ""
        self.claimed = message.runner_id
        if not self._terms.opens(token):
            self.fail(AUTH_FAILED, "This is not the token with which runners register.", POLICY, now)
            return
        if message.protocol_version != words.VERSION:
            self.fail(PROTOCOL_ERROR, f"protocol_version {words.VERSION} is spoken here.", POLICY, now)
            return
        self._token = self._terms.token
        self._page = words.by_page(message)
        self._goes = message.go_away
        try:
            self._house.join(self, message, now)
        except Refused as refusal:
            self.fail(refusal.code, str(refusal), refusal.close, now, refusal.retry_after_s)
            return
        self.state = State.REGISTERED
        self.runner_id = message.runner_id
        self.say(words.RegisterAck(runner_id=message.runner_id), now)

    def refusal(self) -> dict[str, str]:
        """For the log: whom an error was told, and which. (An id has no other characters than such.)"""
        return {"client": self.peer, "runner": self.claimed or "not said", "reason": f"{self.why}: {self.told}"}

    def _end(self, now: float) -> None:
        was, self.state = self.state, State.CLOSED
        if was is State.REGISTERED:
            self._house.left(self, now)
