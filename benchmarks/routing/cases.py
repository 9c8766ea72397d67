"""What is played over sockets: a trace, the engines before which it is played, and how much quicker than it is written.

Owns: the numbers. Engines and prompts are those of the discrete simulation; the traces are shorter, so that one takes less
than half a minute, and no busier, so that two cores can play them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.routing.simulation import Machine
from benchmarks.routing.trace import Shape

ENGINES = 16


@dataclass(frozen=True)
class Case:
    """``speed``: times as fast as the trace says, everything alike: arrivals, pauses, engines."""

    name: str
    says: str
    shape: Shape
    machines: Sequence[Machine]
    speed: float


CONVERSATIONS = Case(
    "conversations",
    "chats and coding agents before engines that are alike: what counts is what is in whose cache",
    Shape(length_s=160.0, chats=320, chat_turns=(3, 7), agents=32, agent_turns=(8, 14)),
    [Machine()] * ENGINES,
    14.0,
)
SKEW = Case(
    "skew",
    "chats of very different lengths before engines of which a quarter is half as fast: what counts is what each has to do",
    Shape(length_s=160.0, chats=680, agents=0, chat_turns=(3, 6), chat_system_tokens=200, chat_message_tokens=(30, 2500),
          chat_answer_tokens=(20, 900), chat_think_s=8.0),
    [Machine(5_000.0, 25.0, 24) if at % 4 == 0 else Machine(10_000.0, 50.0, 24) for at in range(ENGINES)],
    14.0,
)  # fmt: skip
CASES = (CONVERSATIONS, SKEW)
