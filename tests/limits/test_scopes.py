"""Which limits stand beside a key: by names of the configuration, as many as there may be, and what was taken stays taken."""

from __future__ import annotations

from fastgw.limits.purse import KEY, TENANT, Purse
from fastgw.limits.scope import EACH, MODEL, Limits, Scope
from fastgw.limits.scopes import MOST_EACH, NONE, ModelLimits, Scopes

NOW = 1_000_000_000_000
TODAY = 20_000
ONE = Limits(requests_per_minute=60, tokens_per_minute=600, daily_tokens=1000)


def kinds(scopes: tuple[Scope, ...]) -> list[tuple[str, str]]:
    return [(scope.kind, scope.id) for scope in scopes]


def test_those_of_its_tenant_and_of_its_model_hold_for_a_request() -> None:
    scopes = Scopes([])
    models = [ModelLimits(("m", "nick"), ONE, ONE), ModelLimits(("free",), NONE, NONE), ModelLimits(("own",), NONE, ONE)]
    scopes.follow({"lab": ONE, "unlimited": NONE}, models, NOW)
    lab = scopes.tenant("lab")
    assert scopes.tenant("unlimited") is scopes.tenant("other") is None
    for name in ("m", "nick"):
        assert kinds(scopes.of("k", lab, name, NOW, TODAY)) == [(EACH, "k"), (TENANT, "lab"), (MODEL, "m")], "narrow ones first"
    assert kinds(scopes.of("k", None, "own", NOW, TODAY)) == [(EACH, "k")]
    for name in ("free", "made up", ""):
        assert scopes.of("k", None, name, NOW, TODAY) == ()
        assert kinds(scopes.of("k", lab, name, NOW, TODAY)) == [(TENANT, "lab")]
    assert scopes.of("k", None, "m", NOW, TODAY) == scopes.of("k", None, "nick", NOW, TODAY), "the very same ones"
    assert len(scopes) == 2


def test_a_change_leaves_what_was_taken_and_asks_for_a_day_that_is_new() -> None:
    unread: list[Purse] = []
    scopes = Scopes(unread)
    scopes.follow({"lab": ONE}, [ModelLimits(("m",), ONE, ONE)], NOW)
    each, lab, model = scopes.of("k", scopes.tenant("lab"), "m", NOW, TODAY)
    asked = [(one.kind, one.name, one.models) for one in unread]
    assert asked == [(TENANT, "lab", ()), (MODEL, "", ("m",)), (KEY, "k", ("m",))]
    unread.clear()
    for one in (each, lab, model):
        assert one.requests is not None
        assert one.day is not None
        assert one.requests.take(NOW, 50)
        one.day.charge(TODAY, 900)
    more = Limits(requests_per_minute=120, daily_tokens=2000)
    scopes.follow({"lab": more}, [ModelLimits(("m",), more, more)], NOW)
    assert scopes.of("k", scopes.tenant("lab"), "m", NOW, TODAY) == (each, lab, model)
    for one in (each, lab, model):
        assert one.requests is not None
        assert one.day is not None
        assert (one.requests.left(NOW), one.tokens, one.day.left(TODAY)) == (70, None, 1100)
    assert unread == []
    scopes.follow({"lab": more}, [ModelLimits(("m", "nick"), more, more)], NOW)
    scopes.of("k", None, "m", NOW, TODAY)
    assert [(one.name, one.models) for one in unread] == [("", ("m", "nick")), ("k", ("m", "nick"))], "of all its names"
    scopes.follow({}, [], NOW)
    assert scopes.tenant("lab") is None
    assert scopes.of("k", None, "m", NOW, TODAY) == ()


def test_keys_that_use_nothing_any_more_make_room_and_others_share_what_there_is() -> None:
    scopes = Scopes([], most=2)
    scopes.follow({}, [ModelLimits(("m",), NONE, ONE)], NOW)
    held = [scopes.of(key, None, "m", NOW, TODAY)[0] for key in ("a", "b")]
    for one in held:
        assert one.requests is not None
        assert one.requests.take(NOW, 1)
    crowd = scopes.of("c", None, "m", NOW, TODAY)[0]
    assert crowd is scopes.of("d", None, "m", NOW, TODAY)[0]
    assert (len(scopes), crowd.id) == (2, "m")
    assert crowd.day is not None
    assert crowd.day in scopes.days()
    # A second later the first ones are as good as new; but one of them has a request under way.
    held[0].inflight = 1
    later = NOW + 1_000_000
    assert scopes.of("c", None, "m", later, TODAY)[0] not in (crowd, *held)
    assert scopes.of("a", None, "m", later, TODAY)[0] is held[0]
    assert held[1].day is not None
    held[0].inflight = 0
    assert held[0].day is not None
    held[0].day.charge(TODAY, 1)
    newest = scopes.of("c", None, "m", later, TODAY)[0]
    newest.inflight = 1
    assert scopes.of("e", None, "m", later, TODAY)[0] is crowd, "what a key has used today is not forgotten"
    assert scopes.of("e", None, "m", later, TODAY + 1)[0] is not crowd
    assert MOST_EACH == 100_000


def test_what_keys_have_used_today_is_asked_for_at_a_start() -> None:
    unread: list[Purse] = []
    scopes = Scopes(unread, most=3)
    limited = Limits(daily_tokens=5)
    models = [ModelLimits(("m", "n"), NONE, limited), ModelLimits(("o",), NONE, limited), ModelLimits(("p",), NONE, Limits(60))]
    scopes.follow({}, models, NOW)
    scopes.remember(["a", "b"], NOW, TODAY)
    assert [(one.name, one.models) for one in unread] == [("a", ("m", "n")), ("a", ("o",)), ("b", ("m", "n"))], "and no more"
