"""Strategies, as they are, before engines that are made up (``benchmarks/routing``, of which this is a small one)."""

from __future__ import annotations

import pytest

from benchmarks.routing.simulation import Machine, Result, run
from benchmarks.routing.trace import Session, Shape, trace
from fastgw.config.names import Policy

CONVERSATIONS = Shape(
    length_s=60.0, chats=60, agents=12, chat_turns=(3, 5), agent_turns=(5, 9), agent_system_tokens=1500,
    agent_context_tokens=(4000, 8000), agent_message_tokens=(100, 400),
)  # fmt: skip
ALIKE = [Machine(prefill_rate=2000.0, cache_tokens=60_000)] * 6
SKEWED = Shape(length_s=60.0, chats=160, agents=0, chat_system_tokens=100, chat_message_tokens=(30, 1500))
UNLIKE = [Machine(prefill_rate=4000.0 if at % 3 else 1500.0, decode_rate=50.0 if at % 3 else 25.0, slots=24) for at in range(6)]


@pytest.fixture(scope="module")
def conversations() -> list[Session]:
    return trace(CONVERSATIONS, 1)


def results(sessions: list[Session], machines: list[Machine], *names: Policy) -> list[Result]:
    found = [run(name, sessions, machines) for name in names]
    assert len({len(one.ttft_s) for one in found}) == 1, "each request is answered, under each policy"
    return found


def test_prompts_that_go_where_they_were_are_answered_in_half_the_time_and_nobody_is_overrun(
    conversations: list[Session],
) -> None:
    turns, aware = results(conversations, ALIKE, "round_robin", "prefix_aware")
    assert turns.mean_s > 2 * aware.mean_s
    assert aware.hit_rate > turns.hit_rate + 0.2
    assert aware.imbalance < 1.5


def test_sessions_and_keys_that_stay_are_answered_sooner_too(conversations: list[Session]) -> None:
    turns, session, hashed = results(conversations, ALIKE, "round_robin", "session", "consistent_hash")
    assert turns.mean_s > 1.5 * hashed.mean_s
    assert turns.mean_s > 1.5 * session.mean_s


def test_the_better_of_two_spares_the_slow_engines_and_so_the_last_percent() -> None:
    sessions = trace(SKEWED, 2)
    turns, two, tokens = results(sessions, UNLIKE, "round_robin", "power_of_two", "token_load")
    assert two.at(0.99) < turns.at(0.99) / 1.5
    assert tokens.at(0.99) < two.at(0.99)


def test_a_trace_is_what_its_seed_says(conversations: list[Session]) -> None:
    again, other = trace(CONVERSATIONS, 1), trace(CONVERSATIONS, 2)
    assert [one.body(0) for one in again] == [one.body(0) for one in conversations] != [one.body(0) for one in other]
    session = conversations[0]
    last = len(session.turns) - 1
    prompt = session.body(last)
    before = session.body(last - 1).partition(b'],"max_tokens"')[0]
    assert prompt.startswith(before), "each turn begins with all that was said before"
    assert abs(session.prompt_tokens(last) * 4 / len(prompt) - 1) < 0.2
