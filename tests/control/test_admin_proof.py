"""Who is let into ``/admin``: nobody without a configured key, and nobody who guesses, for long."""

from __future__ import annotations

import pytest

from fastgw.control.proof import FAILURES, FAILURES_S, MAX_ADDRESSES, Throttle
from tests.control.test_server import ADMIN_KEY, Events, Hand, ask, serving
from tests.support.client import RawClient, request


def admin(**fields: str) -> bytes:
    return request("GET", "/admin/audit", headers=[(name.replace("_", "-"), value) for name, value in fields.items()])


async def test_without_an_admin_key_everything_below_admin_is_denied() -> None:
    async with serving(key="") as control:
        for data in (
            admin(),
            admin(Authorization="Bearer "),
            admin(Authorization="Bearer x"),
            request("POST", "/admin/keys", body=b"{}"),
            request("DELETE", "/admin"),
        ):
            response = await ask(control, data)
            assert response.status == 403
            assert response.error["type"] == "permission_error"
        assert (await ask(control, request("GET", "/metrics"))).status == 200


@pytest.mark.parametrize(
    "value",
    [
        f"Bearer {ADMIN_KEY}x",
        f"Bearer {ADMIN_KEY[:-1]}",
        "Bearer",
        "Bearer ",
        ADMIN_KEY,
        f"Basic {ADMIN_KEY}",
        f"Bearer {ADMIN_KEY} {ADMIN_KEY}",
        "Bearer ' OR '1'='1",
        "Bearer \xff\xfe",
        "Bearer " + "k" * 8000,
    ],
)
async def test_a_wrong_proof_is_refused_with_a_challenge(value: str) -> None:
    log = Events()
    async with serving(log=log) as control:
        response = await ask(control, admin(Authorization=value))
        assert response.status == 401
        assert (response.header("www-authenticate") or "").startswith("Bearer")
        assert control.auth_failures == 1
    assert ADMIN_KEY.encode() not in response.body
    assert [line[:2] for line in log.lines] == [("warning", "admin")]
    assert log.lines[0][2]["actor"] == "127.0.0.1"
    assert "k" * 20 not in str(log.lines)


async def test_a_second_proof_makes_none() -> None:
    async with serving() as control:
        twice = [("Authorization", f"Bearer {ADMIN_KEY}"), ("Authorization", "Bearer x")]
        for headers in (twice, twice[::-1], twice[:1] * 2, [("x-api-key", ADMIN_KEY)]):
            assert (await ask(control, request("GET", "/admin/audit", headers=headers))).status == 401


@pytest.mark.parametrize("value", [f"Bearer {ADMIN_KEY}", f"bearer {ADMIN_KEY}", f"BEARER   {ADMIN_KEY}"])
async def test_the_operator_is_let_in_and_told_that_there_is_no_store(value: str) -> None:
    log = Events()
    async with serving(log=log) as control:
        response = await ask(control, admin(Authorization=value))
        assert response.status == 404
        assert "FASTGW_STATE_DIR" in response.error["message"]
        assert control.auth_failures == 0
    assert log.lines == [("info", "admin", {"actor": "127.0.0.1", "by": "admin", "action": "audit", "status": 404})]


async def test_a_guesser_waits_and_the_right_key_does_not() -> None:
    clock, log = Hand(), Events()
    right = admin(Authorization=f"Bearer {ADMIN_KEY}")
    wrong = admin(Authorization="Bearer guess")
    async with serving(clock=clock, log=log) as control:
        for _ in range(FAILURES):
            assert (await ask(control, wrong)).status == 401
            clock.now += 1.0
        response = await ask(control, wrong)
        assert response.status == 429
        assert response.error["type"] == "rate_limit_error"
        assert response.header("retry-after") == str(int(FAILURES_S - FAILURES))
        assert control.auth_failures == FAILURES + 1
        assert len(log.lines) == FAILURES  # a flood of guesses is no flood of lines
        assert (await ask(control, request("GET", "/metrics"))).status == 200
        # From the same address, with everybody else of it locked out.
        assert (await ask(control, right)).status == 404  # through the door
        assert control.auth_failures == FAILURES + 1
        # Having proved it helps no guesser who comes from there.
        assert (await ask(control, wrong)).status == 429
        clock.now += FAILURES_S - FAILURES - 0.5
        assert (await ask(control, wrong)).status == 429
        clock.now += 0.5
        # The next failure is the tenth within the minute again.
        assert (await ask(control, wrong)).status == 401
        assert (await ask(control, wrong)).status == 429
        assert (await ask(control, right)).status == 404


@pytest.mark.parametrize("value", [f"Bearer {ADMIN_KEY}x", f"Bearer {ADMIN_KEY[:-1]}", ADMIN_KEY, f"Basic {ADMIN_KEY}", ""])
async def test_who_waits_is_not_told_how_near_a_guess_was(value: str) -> None:
    async with serving() as control:
        for _ in range(FAILURES):
            await ask(control, admin(Authorization="Bearer guess"))
        assert (await ask(control, admin(Authorization=value))).status == 429


async def test_one_guesser_does_not_lock_out_another_address() -> None:
    async with serving() as control:
        for _ in range(FAILURES):
            await ask(control, admin())
        async with RawClient.connect(control.url, source="127.0.0.2") as client:
            await client.send(admin(Authorization=f"Bearer {ADMIN_KEY}"))
            assert (await client.read_response()).status == 404
        assert (await ask(control, admin())).status == 429


def test_the_throttle_forgets_those_who_have_not_failed_for_longest() -> None:
    throttle = Throttle()
    for number in range(MAX_ADDRESSES):
        throttle.failed(f"10.{number >> 8}.{number & 255}.1", 0.0)
    throttle.failed("10.0.0.1", 1.0)  # the first is now the last
    for number in range(FAILURES):
        assert throttle.failed("192.0.2.1", 2.0) == (number == FAILURES - 1)
    assert len(throttle) == MAX_ADDRESSES
    for number in range(FAILURES - 2):
        # Two failures of the first are remembered; the second was forgotten, and begins anew.
        assert throttle.failed("10.0.0.1", 3.0) == (number == FAILURES - 3)
        assert throttle.failed("10.0.1.1", 3.0) is False
    assert throttle.wait_s("10.0.0.1", 3.0) == FAILURES_S - 3.0
    assert throttle.wait_s("10.0.0.1", FAILURES_S + 1.0) == 0.0


def test_the_throttle_counts_an_ipv6_subscriber_once() -> None:
    throttle = Throttle()
    for number in range(FAILURES):
        throttle.failed(f"2001:db8:0:7::{number:x}", 5.0)
    assert throttle.wait_s("2001:db8:0:7:ffff::1", 5.0) == FAILURES_S
    assert throttle.wait_s("2001:db8:0:8::1", 5.0) == 0.0
