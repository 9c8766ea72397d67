"""The routing benchmark over sockets: a small trace through a real gateway before a few engines, and what is made of its
figures.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.routing import picture, sockets, tables
from benchmarks.routing.cases import CONVERSATIONS
from benchmarks.routing.client import Played, play
from benchmarks.routing.routers import Router
from benchmarks.routing.trace import Shape, trace
from fastgw.sim import SimConfig, Simulator
from tests.support.ports import closed_port

SMALL = replace(
    CONVERSATIONS,
    shape=Shape(
        length_s=10.0, chats=6, chat_turns=(2, 3), chat_think_s=4.0, agents=4, agent_turns=(4, 5), agent_system_tokens=1000,
        agent_context_tokens=(4000, 8000), agent_message_tokens=(100, 300), agent_think_s=2.0, agent_systems=1, chat_systems=1,
    ),
    machines=CONVERSATIONS.machines[:3], speed=40.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def found():
    sessions = trace(SMALL.shape, 1)
    routers = {}
    for policy in ("round_robin", "prefix_aware"):
        router = Router("fastgw", policy)
        routers[router.name] = {"version": "", "rounds": [sockets.measure(router, SMALL, sessions)]}
    requests = sum(len(session.turns) for session in sessions)
    case = {"says": SMALL.says, "speed": SMALL.speed, "engines": 3, "seed": 1, "sessions": len(sessions), "routers": routers}
    about = {"date": "2026-01-01T00:00:00Z", "git_commit": "", "cpu": "a <cpu>", "cores": 2, "python": "3"}
    return requests, {"schema": 1, "machine": about, "cases": {"conversations": case}}


def of(found, name):
    return found["cases"]["conversations"]["routers"][name]["rounds"][0]


def test_every_turn_is_asked_once_and_answered(found):
    requests, results = found
    for name in ("fastgw round_robin", "fastgw prefix_aware"):
        one = of(results, name)
        assert (one["requests"], one["failed"], one["why"]) == (requests, 0, {})
        assert sum(one["served"]) == requests
        assert 0 < one["ttft_p50_s"] <= one["ttft_p99_s"] <= one["length_s"]


def test_a_conversation_that_stays_finds_its_beginning_in_the_cache(found):
    _, results = found
    turns, prefix = of(results, "fastgw round_robin"), of(results, "fastgw prefix_aware")
    assert prefix["hit_rate"] > turns["hit_rate"] + 0.1
    assert prefix["hit_rate"] < 1.0


def test_the_table_the_bars_and_the_picture_come_from_the_results(found):
    _, results = found
    results = json.loads(json.dumps(results))
    table = tables.table(results)
    assert "| **fastgw prefix_aware** " in table.replace("** ¹", "**")
    assert "40 times as fast as written" in table
    bars = tables.bars(results)
    assert "prefix_aware's mean TTFT to round_robin's" in bars
    assert "sglang" not in bars  # it was not measured
    drawn = picture.draw(results)
    assert drawn == picture.draw(results)
    assert drawn.count("<circle") == 2
    assert "a &lt;cpu&gt;" in drawn
    assert "results/x.svg" in tables.section(results, "x")


def test_what_fails_is_counted_and_not_timed():
    report = {"held": [3, 1], "read_tokens": [10, 0], "cached_tokens": [5, 0], "served": [1, 0], "late_p99_ms": 1.0}
    one = sockets.figures(Played([0.5], [1.0], {"status 503": 2}, 10.0, 100), report, 0.1, 0.1)
    assert (one["requests"], one["failed"], one["ttft_mean_s"], one["hit_rate"], one["imbalance"]) == (3, 2, 0.5, 0.5, 1.5)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("status=503", "status 503"),
        ("reset", "the connection was closed"),
        ("close-after-events=2", "the connection was closed"),
        ("end-after-events=2", "no [DONE]"),
        ("after-events=2,error-event", "an error in the stream"),
        ("none", ""),
    ],
)
async def test_an_answer_that_is_none_has_failed(fault, why):
    shape = Shape(length_s=0.1, chats=2, chat_turns=(2, 2), chat_think_s=0.1, agents=0)
    async with Simulator(SimConfig(models=("m",), fault="" if fault == "none" else fault)) as sim:
        played = await play(trace(shape, 1), sim.port, 20.0)
    assert played.failed == ({why: 4} if why else {})
    assert len(played.ttft_s) == (0 if why else 4)


async def test_a_router_that_is_gone_fails_every_turn():
    shape = Shape(length_s=0.1, chats=2, chat_turns=(2, 2), chat_think_s=0.1, agents=0)
    assert (await play(trace(shape, 1), closed_port(), 20.0)).failed == {"no connection": 4}


def test_rounds_of_another_trace_are_not_added(tmp_path, capsys):
    file = tmp_path / "before.json"
    about = {"says": "", "speed": 1.0, "engines": 16, "seed": 1, "sessions": 1, "routers": {}}
    file.write_text(json.dumps({"schema": 1, "cases": {"conversations": about}}))
    assert sockets.main(["--sockets", "--cases", "conversations", "--more", str(file), "--rounds", "0"]) == 2
    assert "another trace of conversations" in capsys.readouterr().err


def test_names_that_there_are_not_are_refused(capsys):
    assert sockets.main(["--sockets", "--only", "nginx"]) == 2
    assert "there is no nginx" in capsys.readouterr().err
