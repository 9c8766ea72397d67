"""A trace of conversations, made up from a seed: chats of several turns, and sessions of coding agents with long prompts.

Whoever replays it asks each session's turns one after the other: a turn comes ``think_s`` after the answer of the one before,
with all that was said so far before its own message. So a slow answer delays what follows, as with people and agents, and the
same trace can be replayed by the discrete simulation here and over sockets.

    for session in trace(Shape(), seed=1):
        for number, turn in enumerate(session.turns):
            ask(session.body(number), max_tokens=turn.answer_tokens)

Text is words of a made-up language; four bytes count for one token throughout.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

TOKEN_BYTES = 4


@dataclass(frozen=True)
class Shape:
    """What the trace is like. Ranges are (least, most), drawn evenly, and a mean is that of an exponential."""

    length_s: float = 300.0
    """In which sessions begin, evenly."""
    chats: int = 500
    chat_turns: tuple[int, int] = (3, 9)
    chat_system_tokens: int = 1500
    chat_systems: int = 4
    chat_message_tokens: tuple[int, int] = (30, 400)
    chat_answer_tokens: tuple[int, int] = (50, 400)
    chat_think_s: float = 12.0
    agents: int = 40
    agent_turns: tuple[int, int] = (10, 20)
    agent_system_tokens: int = 12_000
    agent_systems: int = 3
    agent_context_tokens: tuple[int, int] = (38_000, 75_000)
    agent_message_tokens: tuple[int, int] = (300, 2500)
    agent_answer_tokens: tuple[int, int] = (40, 300)
    agent_think_s: float = 4.0


@dataclass(frozen=True)
class Turn:
    """One request of a session. ``message``: what it says beyond the turns before, ``answer``: what is taken for its answer."""

    think_s: float
    message: bytes
    answer: bytes

    @property
    def answer_tokens(self) -> int:
        return len(self.answer) // TOKEN_BYTES


@dataclass
class Session:
    """A conversation. ``system``: what it shares with others of its kind, by the number ``system_id``."""

    number: int
    kind: str
    start_s: float
    system_id: str
    system: bytes
    turns: Sequence[Turn]
    _said: list[bytes] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number}"

    def prompt_tokens(self, number: int) -> int:
        """Of the turn ``number``, the system's among them."""
        before = sum(len(turn.message) + len(turn.answer) for turn in self.turns[:number])
        return (len(self.system) + before + len(self.turns[number].message)) // TOKEN_BYTES

    def body(self, number: int, model: str = "m") -> bytes:
        """The request of the turn ``number``, as an OpenAI client would write it."""
        said = [b'{"role":"system","content":"%b"}' % self.system]
        for turn in self.turns[:number]:
            said.append(b'{"role":"user","content":"%b"}' % turn.message)
            said.append(b'{"role":"assistant","content":"%b"}' % turn.answer)
        turn = self.turns[number]
        said.append(b'{"role":"user","content":"%b"}' % turn.message)
        return b'{"model":"%b","messages":[%b],"max_tokens":%d,"stream":true,"user":"%b"}' % (
            model.encode(), b",".join(said), turn.answer_tokens, self.name.encode(),
        )  # fmt: skip


class _Words:
    """Text of any length, different each time."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        words = ["".join(dice.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(dice.randint(2, 9))) for _ in range(2000)]
        self._text = " ".join(dice.choice(words) for _ in range(120_000)).encode()

    def __call__(self, tokens: int) -> bytes:
        size = tokens * TOKEN_BYTES
        made = b"%08x " % self._dice.getrandbits(32)
        while len(made) < size:
            at = self._dice.randrange(len(self._text) - 64)
            made += self._text[at : at + size - len(made)]
        return made[:size]


def trace(shape: Shape, seed: int) -> list[Session]:
    """The sessions, in the order in which they begin."""
    dice = random.Random(seed)
    words = _Words(dice)
    systems = {
        **{f"chat-{at}": words(shape.chat_system_tokens) for at in range(shape.chat_systems)},
        **{f"agent-{at}": words(shape.agent_system_tokens) for at in range(shape.agent_systems)},
    }
    found = []
    for number in range(shape.chats + shape.agents):
        agent = number >= shape.chats
        kind = "agent" if agent else "chat"
        count = dice.randint(*(shape.agent_turns if agent else shape.chat_turns))
        turns = []
        for at in range(count):
            message = dice.randint(*(shape.agent_message_tokens if agent else shape.chat_message_tokens))
            if agent and at == 0:
                message = dice.randint(*shape.agent_context_tokens)
            answer = dice.randint(*(shape.agent_answer_tokens if agent else shape.chat_answer_tokens))
            think_s = dice.expovariate(1 / (shape.agent_think_s if agent else shape.chat_think_s)) if at else 0.0
            turns.append(Turn(think_s, words(message), words(answer)))
        system_id = f"{kind}-{dice.randrange(shape.agent_systems if agent else shape.chat_systems)}"
        found.append(Session(number, kind, dice.random() * shape.length_s, system_id, systems[system_id], turns))
    return sorted(found, key=lambda session: session.start_s)
