"""Models whose runners have gone: who is waited for, for how long, and how many."""

from __future__ import annotations

import pytest

from fastgw.upstream.absent import AWAY_S, MOST_ABSENT, START_S, Absent
from fastgw.upstream.runners import GRACE_S
from tests.support.runners import Talk, heartbeat, register


def told(absent: Absent, *models: str, at: float) -> str:
    """The kind of error that is told instead of 404."""
    error = absent.refusal(models, at, 5.0)
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
    talk.absent.went("r3", ["c", "d"], talk.now)
    talk.absent.forget(["c"])
    assert [told(talk.absent, name, at=talk.now) for name in "cd"] == ["", "runner_away"]
    talk.absent.end()
    talk.absent.went("r4", ["e"], talk.now)
    assert [told(talk.absent, name, at=talk.now) for name in "de"] == ["", ""], "nobody may dial in any more"


def test_for_so_long_and_so_many_at_the_most() -> None:
    absent = Absent()
    absent.begin(0.0)
    assert [told(absent, "any", at=at) for at in (0.0, START_S - 0.1, START_S)] == ["runner_away", "runner_away", ""]
    assert told(absent, "", at=0.0) == "", "no name is nobody's"
    absent.went("r", ["a"], 100.0)
    assert [told(absent, "a", at=100.0 + at) for at in (AWAY_S - 0.1, AWAY_S)] == ["runner_away", ""]
    for at in range(100):
        absent.went(f"r{at}", ["same", *[f"m{at}-{number}" for number in range(99)]], 200.0)
        assert len(absent) <= MOST_ABSENT
    assert [told(absent, name, at=200.0) for name in ("m0-0", "m99-0", "same")] == ["", "runner_away", "runner_away"]
    absent.went("huge", [f"x{at}" for at in range(2 * MOST_ABSENT)], 200.0)
    assert len(absent) == MOST_ABSENT
