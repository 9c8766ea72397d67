"""The registry: who is there, how an engine follows what its runner says, and what becomes of both when they come and go."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.policy.routing.capability import context_of, is_cold
from fastgw.protocol.runner_words import CommandResponse, LoadModel
from fastgw.protocol.runners import Session
from fastgw.upstream.models import ModelFacts
from fastgw.upstream.runners import ASKED_S, FLAP_S, FLAPS, GRACE_S, MOST_COMMANDS, REPLACED, Runner
from tests.support.runners import Talk, heartbeat, register, status


def of(talk: Talk, id: str = "r1") -> Runner:
    runner = talk.registry.find(id)
    assert runner is not None, id
    return runner


# --- how it is
def test_S4_02_a_runner_that_joins_serves_its_models_at_once() -> None:
    talk = Talk()
    talk.joined("llama", status=status("llama", available=["qwen"], model_aliases={"fast": "llama", "lost": "nobody"}))
    engine = of(talk).engine
    assert talk.yard.models == {"r1": ("llama", "qwen", "fast")}
    assert (engine.name, engine.healthy, engine.draining) == ("r1", True, False)
    assert engine.addresses == ((2, ("10.0.0.7", 8000)),)
    assert talk.yard.told == [("runner_joined", "r1")]


@pytest.mark.parametrize(("word", "kind"), [
    ("vllm", "vllm"), ("VLLM", "vllm"), ("llama_cpp", "llamacpp"), ("llama.cpp", "llamacpp"), ("ollama", "ollama"),
    ("text-generation-inference", "tgi"), ("sglang", "sglang"), ("unheard-of", "auto"),
])  # fmt: skip
def test_its_engines_kind_is_what_it_says(word: str, kind: str) -> None:
    talk = Talk()
    talk.joined(status=status("m", engine_type=word))
    assert of(talk).engine.kind.name == kind


def test_of_two_kinds_of_engines_behind_one_runner_none_is_believed() -> None:
    talk = Talk()
    both = [status("a")["engines"][0], status("b", engine_type="ollama")["engines"][0]]
    talk.joined(status=status(engines=both))
    assert of(talk).engine.kind.name == "auto"
    assert talk.yard.models["r1"] == ("a", "b")


@pytest.mark.parametrize(("said", "takes"), [
    (heartbeat(), "all"), (heartbeat(health="degraded"), "all"), (heartbeat(health="starting"), "none"),
    (heartbeat(health="unhealthy"), "the last ones"), (heartbeat(health="shutting_down"), "none"),
    (heartbeat(is_healthy=False), "the last ones"), (heartbeat(engines=[]), "all"),
    (heartbeat(type="status_update", health="unhealthy"), "the last ones"),
    (heartbeat(health="unhealthy", engines=[]), "the last ones"),
])  # fmt: skip
def test_S4_03_what_it_says_of_itself_decides_whether_it_gets_requests(said: dict[str, Any], takes: str) -> None:
    talk = Talk()
    session = talk.joined()
    talk.say(session, said)
    engine = of(talk).engine
    found = "none" if engine.draining else "all" if engine.usable() else "the last ones" if engine.last_resort() else ""
    assert found == takes
    if takes == "the last ones":
        assert talk.yard.models["r1"] == ("llama",), "who is not well has what it had"
        session = talk.joined()
        talk.say(session, said)
        assert engine.last_resort(), "also when it comes again"
    if said.get("health") != "shutting_down":
        talk.say(session, heartbeat())
        assert engine.usable()


def test_an_engine_that_comes_after_its_runner_or_is_another_one_later_is_of_its_kind() -> None:
    talk = Talk()
    session = talk.joined(status=status(health="starting", engine_type="auto", is_healthy=False))
    kinds = []
    for kind in ("ollama", "auto", "vllm"):
        talk.say(session, heartbeat("m", engine_type=kind))
        kinds.append(of(talk).engine.kind.name)
    assert kinds == ["ollama", "ollama", "vllm"]


def test_what_a_runner_in_a_tunnel_has_in_memory_is_known_by_every_name() -> None:
    talk = Talk()
    session = talk.connect()
    session.tunnelled = True
    for warm in (["m"], []):
        cold = [] if warm else ["m"]
        talk.say(session, register(status=status(*warm, available=cold, model_aliases={"short": "m"})) if warm else
                 {"type": "heartbeat", **status(available=cold, model_aliases={"short": "m"})})  # fmt: skip
        engine = of(talk).engine
        assert [is_cold(engine, name) for name in ("m", "short", "other")] == [not warm, not warm, False]
    told = {"type": "heartbeat", **status("m", model_aliases={"short": "m"})}
    told["engines"][0]["context_tokens"] = {"m": 2048}
    talk.say(session, told)
    assert [context_of(engine, name) for name in ("m", "short", "other")] == [2048, 2048, 0]
    engine.facts = {"m": ModelFacts("m", 4096, loaded=False, aliases=("tag",))}
    assert [context_of(engine, name) for name in ("m", "short", "tag", "other")] == [4096, 4096, 4096, 0]


def test_models_that_change_are_served_at_once_and_what_waits_there_is_known() -> None:
    talk = Talk()
    session = talk.joined("a")
    of(talk).engine.inflight = 2
    talk.say(session, heartbeat("a", "b", metrics={"requests_running": 3, "requests_waiting": 7}))
    assert talk.yard.models["r1"] == ("a", "b")
    assert of(talk).engine.queued == 8, "two of them are ours"
    talk.say(session, heartbeat("a", "b"))
    assert of(talk).engine.queued == 0


def test_who_says_the_same_again_changes_nothing() -> None:
    talk = Talk()
    session = talk.joined("a")
    talk.yard.models.clear()
    talk.say(session, heartbeat("a"))
    assert talk.yard.models == {}


# --- coming and going
def test_a_tunnel_that_breaks_is_waited_for_until_its_runner_is_back() -> None:
    talk = Talk()
    session = talk.connect()
    session.tunnelled = True
    talk.say(session, register())
    engine = of(talk).engine
    session.on_end(talk.now)
    assert (engine.away, engine.full(), engine.last_resort(), engine.usable()) == (True, True, False, False)
    talk.wait(GRACE_S - 0.25)
    again = talk.connect()
    again.tunnelled = True
    talk.say(again, register())
    assert of(talk).engine is engine
    assert (engine.away, engine.full(), engine.usable()) == (False, False, True)


def test_who_comes_back_in_time_has_its_engine_as_it_was() -> None:
    talk = Talk()
    session = talk.joined()
    engine = of(talk).engine
    engine.inflight = 3
    session.on_end(talk.now)
    assert (engine.healthy, engine.away) == (False, False), "its engine may be asked still"
    talk.wait(GRACE_S - 0.25)
    again = talk.joined()
    assert of(talk).engine is engine
    assert engine.healthy is True
    assert of(talk).session is again
    talk.wait(10.0)
    assert talk.yard.done == [("taken in", "r1")]
    assert [what for what, _ in talk.yard.told] == ["runner_joined", "runner_lost", "runner_returned"]


def test_S4_02_who_does_not_is_gone_within_two_seconds() -> None:
    talk = Talk()
    talk.joined().on_end(talk.now)
    talk.wait(2.0)
    assert len(talk.registry) == 0
    assert talk.yard.done == [("taken in", "r1"), ("lost", "r1")]
    assert talk.yard.told[-1] == ("runner_gone", "r1")


def test_L5_the_newer_connection_of_an_id_wins_and_what_is_under_way_goes_on() -> None:
    talk = Talk()
    old = talk.joined("a")
    engine = of(talk).engine
    engine.inflight = 5
    new = talk.joined("a", "b")
    assert old.closing == (1008, REPLACED)
    assert of(talk).session is new
    assert of(talk).engine is engine
    assert talk.yard.models["r1"] == ("a", "b")
    old.on_end(talk.now)
    talk.say(old, heartbeat(health="unhealthy"))
    talk.wait(5.0)
    assert of(talk).engine is engine
    assert (engine.healthy, engine.draining) == (True, False)


def moved(talk: Talk, peer: str) -> Session:
    """It has come from another address, while nothing is heard of its former connection."""
    assert talk.say(talk.connect(peer), register())[-1]["type"] == "error"
    talk.wait(ASKED_S)
    return talk.joined(peer=peer)


def test_an_id_that_comes_from_another_address_has_another_engine_and_the_old_one_ends_what_it_has() -> None:
    talk = Talk()
    old = talk.joined(peer="10.0.0.7")
    before = of(talk).engine
    moved(talk, "10.0.0.8")
    assert of(talk).engine is not before
    assert of(talk).url == "http://10.0.0.8:8000"
    assert old.closing is not None
    assert talk.yard.done == [("taken in", "r1"), ("taken in", "r1~2"), ("let go", "r1")]
    assert len(talk.registry) == 1


def test_an_address_is_one_runners() -> None:
    talk = Talk()
    talk.joined()
    second = talk.connect()
    assert talk.say(second, register(id="r2"))[-1]["code"] == "PROTOCOL_ERROR"
    assert talk.say(talk.connect(), register(id="r3", http_port=8001))[-1]["type"] == "register_ack"


def test_an_engine_that_the_fleet_does_not_take_is_told_why() -> None:
    talk = Talk()
    talk.yard.refuses = "There is such an engine."
    said = talk.say(talk.connect(), register())
    assert said[-1] == {"type": "error", "code": "PROTOCOL_ERROR", "message": "There is such an engine."}
    assert len(talk.registry) == 0
    talk.yard.refuses = ""
    talk.joined()


def test_there_are_so_many_at_the_most() -> None:
    talk = Talk(most=3)
    for at in range(3):
        talk.joined(id=f"r{at}", http_port=9000 + at)
    more = talk.connect()
    talk.say(more, register(id="r9", http_port=9009))
    assert more.closing is not None
    assert more.closing[0] == 1013
    talk.joined(id="r1", http_port=9001)  # (one of them, again)
    assert len(talk.registry) == 3


def test_L5_one_that_flaps_waits_and_keeps_the_place_that_it_has() -> None:
    talk = Talk()
    taken = 0
    for _ in range(100):  # in a second
        session = talk.connect()
        talk.say(session, register())
        taken += session.state.value == "registered"
        talk.now += 0.01
    assert taken == FLAPS
    assert session.closing is not None
    assert session.closing[0] == 1013
    assert talk.yard.done == [("taken in", "r1")]
    assert of(talk).session.state.value == "registered"
    talk.now += FLAP_S
    talk.joined()


def test_nobody_takes_the_id_of_one_that_answers_or_locks_it_out() -> None:
    talk = Talk()
    owner = talk.joined(peer="10.0.0.7")
    for _ in range(3 * FLAPS):
        thief = talk.connect("10.0.0.8")
        said = talk.say(thief, register())
        assert said[-1]["type"] == "error"
        assert f"come again in {said[-1]['retry_after_s']:g} s" in said[-1]["message"]
        assert thief.closing is not None
        assert thief.closing[0] == 1013, "it may come again: the owner may be gone by then"
        for asked in talk.heard(owner):
            assert asked["type"] == "ping"
            talk.now += 0.01
            talk.say(owner, heartbeat())
        talk.wait(ASKED_S + 1.0)
    assert of(talk).session is owner
    talk.say(talk.connect("10.0.0.8"), register())
    owner.on_end(talk.now)
    assert talk.joined(peer="10.0.0.7").state.value == "registered", "others' tries are not its own"


def test_one_whose_health_flaps_counts_as_ill_and_is_told_of_now_and_then() -> None:
    talk = Talk()
    session = talk.joined()
    rests = 0
    for at in range(2000):  # 200 s, ten times a second
        was = of(talk).engine.healthy
        talk.say(session, heartbeat(health="unhealthy" if at % 2 else "healthy", is_healthy=at % 4 != 1))
        talk.wait(0.1, 0.1)
        rests += was is not of(talk).engine.healthy
    assert len(talk.yard.told) < 2 * (FLAPS + 200 / FLAP_S)
    assert rests < 2 * (FLAPS + 200 / FLAP_S)
    talk.say(session, heartbeat())
    talk.wait(2 * FLAP_S)
    assert of(talk).engine.healthy, "who is well for a while gets requests again"


def test_one_that_makes_room_is_told_why_and_its_engine_ends_what_it_has() -> None:
    talk = Talk()
    session = talk.joined()
    talk.registry.dismiss(of(talk), "The configuration has it.", talk.now)
    assert talk.heard(session)[-1]["message"] == "The configuration has it."
    assert talk.yard.done[-1] == ("let go", "r1")
    session.on_end(talk.now)
    talk.wait(5.0)
    assert (len(talk.registry), talk.yard.told[-1]) == (0, ("runner_gone", "r1"))


def test_what_is_remembered_of_those_that_flap_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgw.upstream.runners.MOST_REMEMBERED", 10)
    talk = Talk(most=1)
    for at in range(50):
        talk.joined(id=f"r{at}").on_end(talk.now)
        talk.wait(2.0)
    assert len(talk.registry._flaps) == 10


def test_one_that_shuts_down_goes_when_nothing_is_under_way_and_no_sooner() -> None:
    talk = Talk()
    session = talk.joined()
    engine = of(talk).engine
    engine.inflight = 1
    talk.say(session, heartbeat(health="shutting_down", type="status_update"))
    assert engine.draining
    talk.wait(5.0)
    assert session.closing is None
    engine.inflight = 0
    talk.wait(0.25)
    assert session.closing is not None
    assert session.closing[0] == 1000
    assert talk.yard.done[-1] == ("let go", "r1")
    assert len(talk.registry) == 0


def test_one_whose_engine_was_removed_is_sent_away_and_may_come_again() -> None:
    talk = Talk()
    session = talk.joined()
    del talk.yard.engines["r1"]
    talk.wait(0.25)
    assert session.closing is not None
    again = talk.joined()
    assert of(talk).engine is talk.yard.engines["r1"]
    assert of(talk).session is again
    assert talk.yard.models["r1"] == ("llama",)


# --- the operator
def test_a_drained_runner_stays_so_whatever_it_says_and_when_it_moves() -> None:
    talk = Talk()
    session = talk.joined()
    talk.registry.drain(of(talk), True)
    assert of(talk).engine.draining
    talk.say(session, heartbeat(health="unhealthy"))
    talk.say(session, heartbeat())
    assert of(talk).engine.draining
    last = moved(talk, "10.0.0.8")
    assert of(talk).engine.draining
    for _ in range(2):
        last.on_end(talk.now)
        talk.wait(FLAP_S)
        assert len(talk.registry) == 0
        last = talk.joined(peer="10.0.0.8")
        assert of(talk).engine.draining, "also when it was away for long"
    talk.registry.drain(of(talk), False)
    assert not of(talk).engine.draining
    last.on_end(talk.now)
    talk.wait(FLAP_S)
    talk.joined(peer="10.0.0.8")
    assert not of(talk).engine.draining


def test_of_so_many_ids_it_is_known_that_they_are_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgw.upstream.runners.MOST_REMEMBERED", 3)
    talk = Talk(most=1)
    for at in range(5):
        session = talk.joined(id=f"r{at}")
        talk.registry.drain(of(talk, f"r{at}"), True)
        session.on_end(talk.now)
        talk.wait(2.0)
    found = []
    for at in (4, 0):
        session = talk.joined(id=f"r{at}")
        found.append(of(talk, f"r{at}").engine.draining)
        session.on_end(talk.now)
        talk.wait(2.0)
    assert found == [True, False]


def test_a_command_is_answered_once_by_whoever_it_was_given_to() -> None:
    talk = Talk()
    session, other = talk.joined(), talk.joined(id="r2", http_port=8002)
    seen: list[CommandResponse | None] = []
    talk.registry.command(of(talk), lambda id: LoadModel(model_id="m", request_id=id), seen.append, talk.now)
    command = talk.heard(session)[0]
    assert (command["type"], command["model_id"]) == ("load_model", "m")
    answer = {"type": "command_response", "request_id": command["request_id"], "success": True}
    talk.say(other, answer)
    assert seen == []
    talk.say(session, {**answer, "status": status("m")})
    talk.say(session, answer)
    assert [one.success for one in seen if one is not None] == [True]
    assert talk.yard.models["r1"] == ("m",)


def test_commands_of_a_runner_that_is_lost_end() -> None:
    talk = Talk()
    session = talk.joined()
    seen: list[CommandResponse | None] = []
    talk.registry.command(of(talk), lambda id: LoadModel(model_id="m", request_id=id), seen.append, talk.now)
    session.on_end(talk.now)
    assert seen == [None]
    assert not talk.registry.command(of(talk), lambda id: LoadModel(model_id="m", request_id=id), seen.append, talk.now)


def test_so_many_commands_are_under_way_at_the_most() -> None:
    talk = Talk()
    talk.joined()
    given = [
        talk.registry.command(of(talk), lambda id: LoadModel(model_id="m", request_id=id), lambda _: None, talk.now)
        for _ in range(MOST_COMMANDS + 1)
    ]
    assert all(given[:-1])
    assert len(set(given)) == MOST_COMMANDS + 1
    assert given[-1] == ""
    talk.registry.forget(of(talk), given[0])
    assert talk.registry.command(of(talk), lambda id: LoadModel(model_id="m", request_id=id), lambda _: None, talk.now)


def test_when_the_gateway_stops_taking_runners_all_are_told() -> None:
    talk = Talk()
    sessions = [talk.joined(id=f"r{at}", http_port=9000 + at) for at in range(3)]
    talk.registry.close(talk.now)
    assert [session.closing[0] for session in sessions if session.closing] == [1001] * 3


def test_an_alias_for_what_cannot_be_a_name_leaves_nothing_behind() -> None:
    talk = Talk()
    session = talk.connect()
    message = register("m")
    message["status"]["model_aliases"] = {"fast": "bad\x01"}
    assert talk.say(session, message)[0]["type"] == "error"
    assert session.closing is not None
    assert (list(talk.registry), talk.yard.models) == ([], {})


@pytest.mark.parametrize("taken", [True, False])
def test_when_the_gateway_ends_those_that_know_how_are_sent_on_and_stay(taken: bool) -> None:
    """Others are let go where another process waits for them, with what is under way there; nobody comes any more."""
    talk = Talk()
    knows, other = talk.joined(go_away=True), talk.joined(id="r2", peer="10.0.0.8")
    for _ in range(2):
        talk.registry.go_away(talk.now, taken)
    assert talk.heard(knows) == [{"type": "go_away"}]
    assert (knows.closing, talk.heard(other)) == (None, [])
    assert (other.closing is not None and other.closing[0] == 1001) == taken
    assert (("let go", "r2") in talk.yard.done) == taken
    assert [one.id for one in talk.registry] == (["r1"] if taken else ["r1", "r2"])
    for id in ("r1", "r3"):
        (refusal,) = talk.say(talk.connect(), register(id=id))
        assert refusal["retry_after_s"] == 1.0
    assert talk.say(knows, heartbeat()) == []
