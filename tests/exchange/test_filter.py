"""What a filter's face promises: a hook that nobody overrides is not called, and one that nobody would call is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fastgw import Config
from fastgw.exchange.filter import HOOKS, Filter, check, hooks
from fastgw.policy import ORDER, build


class Nothing(Filter):
    name = "nothing"

    def helper(self) -> None: ...

    def _on_private(self) -> None: ...


class Some(Filter):
    def on_head(self, exchange: Any) -> None: ...

    def on_data(self, exchange: Any, data: bytes) -> None: ...


class More(Some):
    """Inherits two hooks, and overrides one of them."""

    def on_head(self, exchange: Any) -> None: ...


def test_only_hooks_that_are_overridden_are_kept_in_order() -> None:
    filters = (Some(), Nothing(), More(), Some())
    for name in HOOKS:
        kept = [filters[0], filters[2], filters[3]] if name in ("on_head", "on_data") else []
        assert [hook.__self__ for hook in hooks(filters, name)] == kept
    assert [hook.__func__ for hook in hooks(filters, "on_head")] == [Some.on_head, More.on_head, Some.on_head]


def test_a_hundred_filters_that_override_nothing_add_no_call() -> None:
    """Also among the gateway's own, which are compiled in one twin."""
    own = build(Config())
    crowd = (*[Nothing() for _ in range(50)], *own, *[Nothing() for _ in range(50)])
    for name in HOOKS:
        assert hooks(crowd, name) == hooks(own, name)
    assert sum(len(hooks(own, name)) for name in HOOKS) > len(own)


def test_hooks_that_are_not_overridden_do_nothing() -> None:
    """For a filter that calls the one above it."""
    one: Any = Some()
    for name in set(HOOKS) - {"rewrite", "preflight", "on_crowded", "on_full", "on_lost", "on_allowance", "on_said"}:
        takes = {"on_data": 2, "on_attempt": 2, "on_response": 2, "on_finish": 2, "on_refused": 2, "on_room": 0}.get(name, 1)
        assert getattr(one, name)(*[None] * takes) is None
    assert (one.rewrite(None, None, b"body"), one.preflight(None)) == (b"body", b"")
    assert (one.on_full(None), one.on_allowance(None), one.on_said(None, None)) == (False, False, True)
    assert (one.on_crowded(None), one.on_lost(None, "failure")) == (False, False)


def of(**members: Any) -> Filter:
    made: Filter = type("Mine", (Filter,), members)()
    return made


async def waits(self: Any, exchange: Any) -> None: ...


def called(self: Any, exchange: Any) -> None: ...


def yields(self: Any, exchange: Any) -> Any:
    yield


async def waits_and_yields(self: Any, exchange: Any) -> Any:
    yield


class Mixin:
    def on_head(self, exchange: Any) -> None: ...


REFUSED: list[tuple[Any, str]] = [
    (of(on_requst=called), "on_requst is no hook; on_request is meant?"),
    (of(on_responce=called), "on_responce is no hook; on_response is meant?"),
    (of(onbody=called), "onbody is no hook; on_body is meant?"),
    (of(rewrites=called), "rewrites is no hook; rewrite is meant?"),
    (of(on_weather=called), "on_weather is no hook: there are on_origin, "),
    (of(on_weather=3), "on_weather is no hook: there are on_origin, "),
    (of(on_request=waits), "on_request must be a plain method"),
    (of(on_request=None), "on_request must be a plain method"),
    (of(on_request=yields), "on_request must be a plain method"),
    (of(on_request=waits_and_yields), "on_request must be a plain method"),
    (of(on_request=staticmethod(waits)), "on_request must be a plain method"),
    (of(on_request=classmethod(yields)), "on_request must be a plain method"),
    (type("Mixed", (Filter, Mixin), {})(), "Mixin.on_head stands behind Filter's own: put it first"),
    (Mixin(), "derive it from fastgw.exchange.filter.Filter"),
    (type("Later", (type(of(on_requst=called)),), {})(), "on_requst is no hook; on_request is meant?"),
]


@pytest.mark.parametrize(("one", "why"), REFUSED)
def test_what_would_never_be_called_is_refused(one: Any, why: str) -> None:
    with pytest.raises(TypeError, match=f"^filter {type(one).__name__}: {re.escape(why)}"):
        check([Nothing(), one])


def test_a_hook_of_an_object_alone_is_refused() -> None:
    one: Any = of(name="mine")
    one.on_head = print
    with pytest.raises(TypeError, match="on_head must be a method of its class"):
        check([one])
    one = of(name="mine")
    one.on_requst = print
    with pytest.raises(TypeError, match="on_requst is no hook; on_request is meant"):
        check([one])


def test_good_filters_pass() -> None:
    mixed: Any = type("Mixed", (Mixin, Filter), {})()
    check([Nothing(), Some(), More(), of(on_request=called), mixed, *build(Config())])
    assert len(hooks([mixed], "on_head")) == 1


def test_a_gateway_does_not_start_with_a_slip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgw.policy.ORDER", (*ORDER, lambda config: of(on_requst=called)))
    with pytest.raises(TypeError, match="on_request is meant"):
        build(Config())
