"""Models whose runners or engines have gone: who is waited for, for how long, and how many."""

from __future__ import annotations

import pytest

from fastgw.limits.account import flow_of
from fastgw.upstream.absent import AWAY_S, ENGINE, MOST_ABSENT, RUNNER, SHARE, START_S, Absent, Who
from fastgw.upstream.runners import GRACE_S
from tests.support.runners import Talk, heartbeat, register


def told(absent: Absent, *models: str, at: float, tenant: str = "") -> str:
    """The kind of error that is told instead of 404."""
    error = absent.refusal(models, at, 5.0, flow_of(tenant))
    return error.kind.name if error is not None else ""


@pytest.mark.parametrize("goes", ["breaks", "is silent", "leaves"])
def test_what_a_runner_served_that_went_by_itself_is_waited_for(goes: str) -> None:
    talk = Talk()
    session = talk.joined(status=register("a", "b")["status"] | {"model_aliases": {"short": "a"}})
    if goes == "is silent":
        talk.wait(100.0)
    elif goes == "leaves":
        talk.say(session, heartbeat("a", "b", health="shutting_down"))
        talk.wait(0.25)
        session.on_end(talk.now)
    else:
        session.on_end(talk.now)
    talk.wait(GRACE_S + 0.25)
    assert len(talk.registry) == 0
    assert [told(talk.absent, name, at=talk.now) for name in ("a", "b", "nobody")] == ["runner_away"] * 2 + [""]
    assert told(talk.absent, "class:of", "a", at=talk.now) == "runner_away"
    # Until it is back and says what it has: `b` is gone for good then.
    starting = talk.connect()
    talk.say(starting, register(status=heartbeat(health="starting", engines=[])))
    assert told(talk.absent, "a", at=talk.now) == "runner_away"
    talk.say(starting, heartbeat("a"))
    assert told(talk.absent, "b", at=talk.now) == ""


def test_what_an_operator_takes_away_is_waited_for_by_nobody() -> None:
    talk = Talk()
    talk.joined("a")
    runner = talk.registry.find("r1")
    assert runner is not None
    talk.registry.drain(runner, True)
    runner.session.on_end(talk.now)
    talk.wait(GRACE_S + 0.25)
    assert told(talk.absent, "a", at=talk.now) == "", "one that he has drained"
    talk.joined("b", id="r2")
    other = talk.registry.find("r2")
    assert other is not None
    talk.registry.dismiss(other, "its place is another's", talk.now)
    assert told(talk.absent, "b", at=talk.now) == "", "one whose place is another's"
    talk.absent.went(Who(RUNNER, "r3"), ["d"], talk.now)
    for engine, source in (("e", "dns a"), ("r3", "file f")):
        talk.absent.went(Who(ENGINE, engine), ["c", "f"] if engine == "r3" else ["c"], talk.now, source=source)
    talk.absent.ends("dns a")
    assert told(talk.absent, "c", at=talk.now) == "engine_away", "one of another source may come"
    talk.absent.end()
    talk.absent.went(Who(RUNNER, "r4"), ["e"], talk.now)
    assert [told(talk.absent, name, at=talk.now) for name in "de"] == ["", ""], "nobody may dial in any more"
    assert told(talk.absent, "f", at=talk.now) == "engine_away", "(engines are found all the same)"


def fresh() -> Absent:
    absent = Absent()
    absent.open = True
    return absent


HAD = {
    Who(RUNNER, "r1"): "", Who(RUNNER, "r2"): "", Who(ENGINE, "e"): "", Who(ENGINE, "his"): "acme", Who(ENGINE, "t"): "globex",
}  # fmt: skip


@pytest.mark.parametrize("last", HAD, ids=lambda who: who.id)
def test_a_name_is_waited_for_as_long_as_one_of_those_who_served_it_is(last: Who) -> None:
    """Whoever of the others has come back with other models, or was taken away, in whatever order they went."""
    for others in (list(HAD), list(reversed(HAD))):
        absent = fresh()
        for who in others:
            absent.went(who, ["m", f"only {who.id}"], 100.0, HAD[who])
        for who in others:
            if who != last:
                absent.came(who)
                assert told(absent, f"only {who.id}", at=100.0, tenant=HAD[who]) == ""
        whose = [tenant for tenant in ("", "acme", "globex") if told(absent, "m", at=100.0, tenant=tenant) == last.kind]
        assert whose == ([HAD[last]] if HAD[last] else ["", "acme", "globex"])
        absent.came(last)
        assert len(absent) == 0
        assert not any(told(absent, "m", at=100.0, tenant=tenant) for tenant in ("", "acme", "globex"))


def test_for_so_long_and_so_many_at_the_most() -> None:
    absent = Absent()
    absent.begin(0.0)
    assert [told(absent, "any", at=at) for at in (0.0, START_S - 0.1, START_S)] == ["runner_away", "runner_away", ""]
    assert told(absent, "", at=0.0) == "", "no name is nobody's"
    absent.went(Who(RUNNER, "r"), ["a"], 100.0)
    assert [told(absent, "a", at=100.0 + at) for at in (AWAY_S - 0.1, AWAY_S)] == ["runner_away", ""]
    for at in range(100):
        absent.went(Who(RUNNER, f"r{at}"), ["same", *[f"m{at}-{number}" for number in range(99)]], 200.0)
        assert len(absent) <= MOST_ABSENT
    assert [told(absent, name, at=200.0) for name in ("m0-0", "m99-0", "same")] == ["", "runner_away", "runner_away"]


def test_who_had_very_many_names_has_the_others_forgotten_no_sooner() -> None:
    absent = fresh()
    absent.went(Who(RUNNER, "small"), ["a", "b"], 100.0)
    absent.went(Who(RUNNER, "huge"), [f"x{at}" for at in range(2 * MOST_ABSENT)], 100.0)
    absent.went(Who(RUNNER, "last"), ["c"], 100.0)
    assert len(absent) == MOST_ABSENT
    assert [told(absent, name, at=100.0) for name in ("a", "b", "x0", "c")] == ["runner_away"] * 4
    for at in range(7):
        absent.went(Who(RUNNER, f"r{at}"), [f"y{at}-{number}" for number in range(SHARE - 1)], 100.0)
    assert [told(absent, name, at=100.0) for name in ("a", "b", "x0", "c")] == ["runner_away"] * 4, "each within a share"
    absent.came(Who(RUNNER, "huge"))
    assert len(absent) == 3 + 7 * (SHARE - 1)


def test_engines_that_nobody_has_found_yet_are_waited_for_by_the_names_that_they_may_have() -> None:
    absent = Absent()
    absent.awaits("dns a", ["a"], "", 100.0)
    assert [told(absent, name, at=100.0) for name in ("a", "any")] == ["engine_away", ""], "all of that name serve `a`"
    absent.awaits("file f", [], "acme", 100.0)
    assert told(absent, "any", at=100.0) == ""
    assert [told(absent, "any", at=100.0 + at, tenant="acme") for at in (AWAY_S - 0.1, AWAY_S)] == ["engine_away", ""]
    for source in ("dns a", "file f"):
        absent.came(Who(ENGINE, source))
    assert [told(absent, name, at=100.0, tenant="acme") for name in ("a", "any")] == ["", ""]
