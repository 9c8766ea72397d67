"""S2.19: keys that are made, changed and ended while traffic runs, by command and by admin API.

A gateway with a store, an engine that counts, and clients on kept connections: a change must reach the very bytes that were
good a moment ago. The commands run as people run them, ``python -m fastgw keys``, in processes of their own.
"""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256
from pathlib import Path
from time import time

import pytest

from fastgw.sim import SimConfig, Simulator
from tests.e2e.key_place import ADMIN, COST, TOKENS, WITHIN_S, becomes, place
from tests.e2e.metered import ask, say
from tests.support.client import RawClient, RawResponse, request
from tests.support.gateway import running


def assert_refused(answer: RawResponse, status: int, word: str) -> None:
    kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}[status]
    assert (answer.status, answer.error["type"]) == (status, kind), answer.body
    assert word in answer.error["message"], answer.body
    if status == 401:
        assert (answer.header("www-authenticate") or "").startswith("Bearer")


class TestLife:
    """From the first key to the end of the last one."""

    @pytest.mark.deadline_s(60)
    async def test_S2_19_by_command(self, tmp_path: Path) -> None:
        """Each command takes effect within a second, on a connection that was there before, without a restart."""
        async with place(tmp_path, require_key=True) as here:
            made = await here.said("create", "--name", "ann", "--tenant", "research", "--daily-tokens", "100000")
            text = made["key"]
            assert text.startswith("fgw_")
            assert len(text) == 4 + 43  # 32 bytes in base64url
            async with RawClient.connect(here.gw.url) as client:
                good = say(TOKENS, key=text)
                await becomes(client, good, 200)
                listed = await here.command("list")
                shown = await here.command("show", "ann")
                for told in (listed, shown):
                    assert told.returncode == 0
                    assert made["id"] in told.stdout
                    assert text[4:] not in told.stdout, "it is shown once"
                assert (await here.command("update", "ann", "--models", "other")).returncode == 0
                assert_refused(await becomes(client, good, 403), 403, "model")
                assert (await here.command("update", "ann", "--models", "all")).returncode == 0
                await becomes(client, good, 200)
                assert (await here.command("disable", "ann")).returncode == 0
                assert_refused(await becomes(client, good, 401), 401, "disabled")
                assert (await here.command("enable", "ann")).returncode == 0
                await becomes(client, good, 200)
                again = await here.said("rotate", "ann", "--grace", "0")
                assert (again["id"], again["key"] != text) == (made["id"], True)
                assert_refused(await becomes(client, good, 401), 401, "not valid")
                better = say(TOKENS, key=again["key"])
                assert (await ask(client, better)).status == 200
                assert (await here.command("delete", made["id"])).returncode == 0
                assert_refused(await becomes(client, better, 401), 401, "not valid")
                assert (await here.command("show", made["id"])).returncode == 1

    async def test_S2_19_by_admin_api(self, tmp_path: Path) -> None:
        """What the API has answered is so: the very next request is judged by it."""
        async with place(tmp_path, require_key=True) as here, RawClient.connect(here.gw.url) as client:
            id, text = await here.key(name="bob", tenant="ops")
            good = say(TOKENS, key=text)
            assert (await ask(client, good)).status == 200
            for path in ("/admin/keys", f"/admin/keys/{id}"):
                assert text[4:] not in json.dumps(await here.admin("GET", path)), "it is shown once"
            await here.change(id, models=["other"])
            assert_refused(await ask(client, good), 403, "model")
            await here.change(id, models=[])
            assert (await ask(client, good)).status == 200
            await here.admin("POST", f"/admin/keys/{id}/disable")
            assert_refused(await ask(client, good), 401, "disabled")
            await here.admin("POST", f"/admin/keys/{id}/enable")
            assert (await ask(client, good)).status == 200
            rotated = await here.admin("POST", f"/admin/keys/{id}/rotate")
            assert_refused(await ask(client, good), 401, "not valid")
            better = say(TOKENS, key=rotated["key"])
            assert (await ask(client, better)).status == 200
            await here.admin("DELETE", f"/admin/keys/{id}", status=204)
            assert_refused(await ask(client, better), 401, "not valid")
            await here.admin("GET", f"/admin/keys/{id}", status=404)

    async def test_S2_19_either_way_shows_the_same(self, tmp_path: Path) -> None:
        """What one way has made the other one shows, field by field; the key's usage follows it through a rotation."""
        fields = {
            "name": "c", "tenant": "t", "requests_per_minute": 600, "burst": 7, "tokens_per_minute": 90_000,
            "daily_tokens": 1000, "concurrency": 3, "priority": "high", "on_exhausted": "cut", "models": ["sim"],
            "networks": ["127.0.0.0/8"], "expires_at": "2099-01-02T03:04:05Z",
        }  # fmt: skip
        async with place(tmp_path) as here:
            id, text = await here.key(**fields)
            told = await here.said("show", id)
            assert {name: told[name] for name in fields} == fields
            async with RawClient.connect(here.gw.url) as client:
                assert (await ask(client, say(TOKENS, key=text))).status == 200
            text = (await here.admin("POST", f"/admin/keys/{id}/rotate"))["key"]
            usage = await here.usage(text)
            assert (usage["total_tokens"], usage["requests"], usage["quota"]) == (COST, 1, 1000)
            seen = (await here.admin("GET", f"/admin/keys/{id}"))["usage"]
            assert (seen["prompt_tokens"] + seen["completion_tokens"], seen["quota_remaining"]) == (COST, 1000 - COST)
            await here.command("update", id, "--daily-tokens", "default", "--priority", "default")
            changed = await here.admin("GET", f"/admin/keys/{id}")
            assert (changed["daily_tokens"], changed["priority"]) == (None, None)

    async def test_S2_19_only_the_digest_is_kept(self, tmp_path: Path) -> None:
        async with place(tmp_path) as here:
            _, by_api = await here.key(name="x")
            by_command = (await here.said("create", "--name", "y"))["key"]
            digests = 0
            for path in here.folder.iterdir():
                held = path.read_bytes()
                for text in (by_api, by_command):
                    assert text[4:].encode() not in held, path.name
                    digests += held.count(sha256(text.encode()).digest())
            assert digests >= 2
            for text in (by_api, by_command):
                assert text[4:] not in repr(here.gw.events.lines) + repr(here.accounts.all())

    async def test_S2_19_keys_of_the_configuration_stay_good_beside_the_store(self, tmp_path: Path) -> None:
        async with place(tmp_path, api_keys=("sk-configured",)) as here, RawClient.connect(here.gw.url) as client:
            id, text = await here.key()
            for key in ("sk-configured", text):
                assert (await ask(client, say(TOKENS, key=key))).status == 200
            await here.admin("DELETE", f"/admin/keys/{id}", status=204)
            assert (await ask(client, say(TOKENS, key=text))).status == 401
            assert (await ask(client, say(TOKENS, key="sk-configured"))).status == 200
            assert (await here.usage("sk-configured"))["requests"] == 2


class TestDoor:
    """Whether a key is asked for at all."""

    async def test_S2_19_the_first_key_closes_an_open_gateway(self, tmp_path: Path) -> None:
        async with place(tmp_path) as here, RawClient.connect(here.gw.url) as client:
            open_ = say(TOKENS, key=None)
            assert (await ask(client, open_)).status == 200
            made = await here.said("create", "--name", "first")
            assert_refused(await becomes(client, open_, 401), 401, "key")
            assert (await ask(client, say(TOKENS, key=made["key"]))).status == 200
            # And the last one that goes leaves it closed.
            assert (await here.command("delete", "first")).returncode == 0
            await becomes(client, say(TOKENS, key=made["key"]), 401)
            assert_refused(await ask(client, open_), 401, "key")

    async def test_S2_19_a_gateway_that_was_closed_is_closed_after_a_restart(self, tmp_path: Path) -> None:
        async with place(tmp_path) as here:
            id, _ = await here.key()
            await here.admin("DELETE", f"/admin/keys/{id}", status=204)
        async with place(tmp_path) as here, RawClient.connect(here.gw.url) as client:
            assert_refused(await ask(client, say(TOKENS, key=None)), 401, "key")

    async def test_S2_19_a_store_that_cannot_be_read_closes_it(self, tmp_path: Path) -> None:
        """Nobody knows whether keys were in it."""
        folder = tmp_path / "state"
        folder.mkdir()
        (folder / "fastgw.db").write_bytes(b"no database at all" * 1000)
        async with (
            Simulator(SimConfig()) as sim,
            running([sim.url], state_dir=str(folder), on_corrupt_state="set_aside") as gw,
            RawClient.connect(gw.url) as client,
        ):
            assert_refused(await ask(client, say(TOKENS, key=None)), 401, "key")
            assert any("requests without one are refused" in message for _, message, _ in gw.events.lines)

    async def test_S2_19_require_key_closes_it_before_there_is_any(self, tmp_path: Path) -> None:
        async with place(tmp_path, require_key=True) as here, RawClient.connect(here.gw.url) as client:
            for data in (say(TOKENS, key=None), request("GET", "/v1/models"), request("GET", "/v1/usage")):
                assert (await ask(client, data)).status == 401
            assert (await ask(client, request("GET", "/health"))).status == 200
            made = await here.said("create")
            await becomes(client, say(TOKENS, key=made["key"]), 200)


@pytest.mark.together
class TestEnds:
    """Keys and texts of keys that end at a moment."""

    async def test_S2_19_a_rotated_key_is_good_until_its_grace_is_over(self, tmp_path: Path) -> None:
        """Both are good, then only the new one: to the second."""
        async with place(tmp_path) as here:
            id, old = await here.key()
            async with RawClient.connect(here.gw.url) as one, RawClient.connect(here.gw.url) as two:
                begin = time()
                rotated = await here.admin("POST", f"/admin/keys/{id}/rotate", {"grace_s": 1.5})
                known = time()
                while (answer := await ask(one, say(TOKENS, key=old))).status == 200:
                    assert time() < known + 1.5 + WITHIN_S, "it goes on"
                    assert (await ask(two, say(TOKENS, key=rotated["key"]))).status == 200
                    await asyncio.sleep(0.02)
                assert time() >= begin + 1.5, "it has ended early"
                assert_refused(answer, 401, "not valid")
                assert (await ask(two, say(TOKENS, key=rotated["key"]))).status == 200
                usage = await here.usage(rotated["key"])
                assert usage["total_tokens"] == usage["requests"] * COST, "both texts are one key"

    async def test_S2_19_a_rotated_key_whose_turn_to_be_dropped_has_not_come_is_refused_all_the_same(
        self, tmp_path: Path
    ) -> None:
        """Very many may end at once; they are dropped some thousand at a look."""
        async with place(tmp_path) as here:
            id, old = await here.key()
            rotated = await here.admin("POST", f"/admin/keys/{id}/rotate", {"grace_s": 0.3})
            keeping = here.gw.gateway._keeping
            assert keeping is not None
            keeping.stop()  # nobody looks
            statuses = []
            for pause_s in (0.0, 0.5):
                await asyncio.sleep(pause_s)
                for text in (old, rotated["key"]):
                    async with RawClient.connect(here.gw.url) as client:
                        statuses.append((await ask(client, say(TOKENS, key=text))).status)
            assert statuses == [200, 200, 401, 200]
            keeping.start()

    async def test_S2_19_two_texts_of_a_key_at_most(self, tmp_path: Path) -> None:
        async with place(tmp_path) as here, RawClient.connect(here.gw.url) as client:
            id, first = await here.key()
            second = (await here.admin("POST", f"/admin/keys/{id}/rotate", {"grace_s": 3600}))["key"]
            third = (await here.admin("POST", f"/admin/keys/{id}/rotate", {"grace_s": 3600}))["key"]
            statuses = [(await ask(client, say(TOKENS, key=key))).status for key in (first, second, third)]
            assert statuses == [401, 200, 200]
            await here.admin("POST", f"/admin/keys/{id}/disable")
            statuses = [(await ask(client, say(TOKENS, key=key))).status for key in (second, third)]
            assert statuses == [401, 401], "the text of before is disabled with its key"

    async def test_S2_19_a_key_expires(self, tmp_path: Path) -> None:
        """To the second, also on a connection whose head is known by heart; a stream that has begun goes on to its end."""
        async with place(tmp_path, {"itl_ms": 60}) as here:
            at = time() + 1.2
            _, text = await here.key(expires_at=at)
            async with RawClient.connect(here.gw.url) as client, RawClient.connect(here.gw.url) as streaming:
                await streaming.send(say(40, stream=True, key=text))
                head = await streaming.read_head()
                assert head.status == 200
                while (answer := await ask(client, request("GET", "/v1/models", key=text))).status == 200:
                    assert time() < at + WITHIN_S, "it goes on"
                    await asyncio.sleep(0.02)
                assert time() >= at, "it has ended early"
                assert_refused(answer, 401, "expired")
                whole = await streaming.read_body(head, 10.0)
                assert whole.events()[-1] == "[DONE]"
                assert time() > at + 0.3
            (used,) = [one.ledger for one in here.accounts.all() if one.ledger.requests]
            assert used.completion == 40

    @pytest.mark.parametrize("how", ["expires", "rotated"])
    async def test_S2_19_it_ends_in_that_very_moment_where_its_head_is_known_by_heart(self, how: str, tmp_path: Path) -> None:
        """Request after request on one connection, and nobody looks after keys meanwhile."""
        async with place(tmp_path) as here, RawClient.connect(here.gw.url) as client:
            end = time() + 0.4
            id, text = await here.key(**({"expires_at": end} if how == "expires" else {}))
            if how == "rotated":
                await here.admin("POST", f"/admin/keys/{id}/rotate", {"grace_s": 0.4})
                end = next(one for one in here.accounts.all() if one.id == id).previous_until
            keeping = here.gw.gateway._keeping
            assert keeping is not None
            keeping.stop()
            good, answered = 0, time()
            while (answer := await ask(client, say(1, key=text))).status == 200:
                sent, answered = answered, time()
                assert sent < end, f"{sent - end:.3f} s after its end"
                good += 1
            assert answered >= end - 0.05, "it has ended early"
            assert answer.status == 401
            assert good > 10
            assert (await ask(client, say(1, key=text))).status == 401
            keeping.start()

    async def test_S2_19_a_clock_that_is_set_back_or_forth(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a head came to holds by the clock of each request, not by that of its first."""
        async with place(tmp_path) as here, RawClient.connect(here.gw.url) as client:
            keeping = here.gw.gateway._keeping
            assert keeping is not None
            end = time() + 1000.0
            _, text = await here.key(expires_at=end)
            keeping.stop()
            seen = []
            for now in (end - 900, end - 0.1, end, end + 900, end - 0.1, end - 900, end + 0.1):
                for module in ("exchange.gateway", "exchange.context", "policy.auth"):
                    monkeypatch.setattr(f"fastgw.{module}.time", lambda now=now: now)
                seen.append([(await ask(client, say(1, key=text))).status for _ in range(2)])
            assert seen == [[one] * 2 for one in (200, 200, 401, 401, 200, 200, 401)]
            keeping.start()

    async def test_S2_19_an_end_that_is_put_off(self, tmp_path: Path) -> None:
        async with place(tmp_path) as here, RawClient.connect(here.gw.url) as client:
            id, text = await here.key(expires_at=time() + 0.2)
            for later in ("1d", None):
                assert_refused(await becomes(client, say(TOKENS, key=text), 401, 0.2 + WITHIN_S), 401, "expired")
                await here.change(id, expires_at=later)
                assert (await ask(client, say(TOKENS, key=text))).status == 200
                await here.change(id, expires_at=time() + 0.2)
            await here.admin("PATCH", f"/admin/keys/{id}", {"expires_at": "2001-01-01"}, status=400)

    @pytest.mark.parametrize("verb", ["disable", "delete", "rotate"])
    async def test_S2_19_what_is_under_way_goes_on(self, verb: str, tmp_path: Path) -> None:
        """A stream ends as it would have, and is charged; the next request is refused."""
        async with place(tmp_path, {"itl_ms": 20}) as here, RawClient.connect(here.gw.url) as client:
            id, text = await here.key()
            (account,) = [one for one in here.accounts.all() if one.id == id]
            await client.send(say(20, stream=True, key=text))
            head = await client.read_head()
            if verb == "delete":
                await here.admin("DELETE", f"/admin/keys/{id}", status=204)
            else:
                await here.admin("POST", f"/admin/keys/{id}/{verb}")
            assert account.inflight == 1
            answer = await client.read_body(head, 10.0)
            assert answer.events()[-1] == "[DONE]"
            await here.gw.idle()
            assert (account.ledger.completion, account.ledger.reserved, account.inflight) == (20, 0, 0)
            assert (await ask(client, say(1, key=text))).status == 401


class TestReach:
    """What a key may be used for, and from where."""

    async def test_S2_19_models(self, tmp_path: Path) -> None:
        async with place(tmp_path, {"models": ("one", "two", "three")}) as here, RawClient.connect(here.gw.url) as client:
            id, text = await here.key(models=["one", "three"])

            async def listed() -> list[str]:
                return [one["id"] for one in (await ask(client, request("GET", "/v1/models", key=text))).json()["data"]]

            assert await listed() == ["one", "three"]
            assert (await ask(client, request("GET", "/v1/models/three", key=text))).status == 200
            assert (await ask(client, request("GET", "/v1/models/two", key=text))).status == 404
            assert (await ask(client, say(TOKENS, model="one", key=text))).status == 200
            refused = await ask(client, say(TOKENS, model="two", key=text))
            assert_refused(refused, 403, "model")
            assert refused.error["param"] == "model"
            assert "two" not in [json.loads(one.body)["model"] for one in here.sim.requests if one.method == "POST"]
            await here.change(id, models=["two"])
            assert await listed() == ["two"]
            assert (await ask(client, say(TOKENS, model="two", key=text))).status == 200
            assert_refused(await ask(client, say(TOKENS, model="one", key=text)), 403, "model")
            assert (await here.usage(text))["requests"] == 2, "what was refused costs nothing"

    async def test_S2_19_networks(self, tmp_path: Path) -> None:
        async with place(tmp_path) as here:
            id, text = await here.key(networks=["127.0.0.2", "fd00::/8"])
            async with (
                RawClient.connect(here.gw.url) as outside,
                RawClient.connect(here.gw.url, source="127.0.0.2") as inside,
            ):
                for data in (say(TOKENS, key=text), request("GET", "/v1/models", key=text)):
                    assert_refused(await ask(outside, data), 403, "address")
                    assert (await ask(inside, data)).status == 200
                # Nobody is a proxy unless the configuration says so.
                forged = say(TOKENS, key=text, headers=[("X-Forwarded-For", "127.0.0.2")])
                assert_refused(await ask(outside, forged), 403, "address")
                await here.change(id, networks=["127.0.0.0/31"])
                assert (await ask(outside, say(TOKENS, key=text))).status == 200
                assert_refused(await ask(inside, say(TOKENS, key=text)), 403, "address")

    async def test_S2_19_networks_behind_a_proxy(self, tmp_path: Path) -> None:
        async with place(tmp_path, trusted_proxies=("127.0.0.1/32",)) as here, RawClient.connect(here.gw.url) as client:
            _, text = await here.key(networks=["10.1.0.0/16", "2001:db8::/32"])
            for address, status in (("10.1.2.3", 200), ("10.2.0.1", 403), ("2001:db8::9", 200), ("127.0.0.1", 403)):
                answer = await ask(client, say(TOKENS, key=text, headers=[("X-Forwarded-For", address)]))
                assert answer.status == status, address


class TestAudit:
    async def test_S2_19_who_did_what(self, tmp_path: Path) -> None:
        async with place(tmp_path) as here:
            id, text = await here.key(name="audited")
            await here.change(id, daily_tokens=5, models=["sim"])
            rotated = (await here.admin("POST", f"/admin/keys/{id}/rotate", {"grace_s": 60}))["key"]
            assert (await here.command("disable", id)).returncode == 0
            again = (await here.said("rotate", id, "--grace", "0"))["key"]
            await here.admin("PATCH", f"/admin/keys/{id}", {"burst": -1}, status=400)
            await here.admin("DELETE", f"/admin/keys/{id}", status=204)
            entries = (await here.admin("GET", "/admin/audit"))["data"]
            assert [one["action"] for one in entries] == ["delete", "rotate", "disable", "rotate", "update", "create"]
            assert {one["key_id"] for one in entries} == {id}
            actors = [one["actor"] for one in entries]
            assert [actor.partition(":")[0] for actor in actors] == ["admin", "cli", "cli", "admin", "admin", "admin"]
            assert actors[0] == "admin:127.0.0.1"
            assert actors[1] not in ("cli:", "cli:?")
            assert entries[4]["changes"] == {"daily_tokens": [None, 5], "models": [[], ["sim"]]}
            whole = json.dumps(entries)
            for secret in (text, rotated, again):
                digest = sha256(secret.encode())
                for form in (secret[4:], digest.hexdigest(), digest.hexdigest()[:12], ADMIN):
                    assert form not in whole
