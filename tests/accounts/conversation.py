"""One case, played: an engine that writes exactly its answer, a client that reads it or leaves, and the books before and after.

Owns: the engine's and the client's part, each waiting for the other where the case says who comes first. Must never: wait for
a while instead, or touch the gateway's books.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from typing import Any, Final

from fastgw import EngineConfig
from fastgw.config import RouteConfig
from fastgw.config.money import amount
from fastgw.config.paying import PriceConfig, TenantConfig
from fastgw.limits.purse import TENANT
from fastgw.sim import ScriptedConnection, ScriptedEngine
from fastgw.sim.scripted import RawRequest
from tests.accounts.answers import answer_of, cut, packed, request_of
from tests.accounts.bills import PRICES, Bill, bills_of, cost_of
from tests.accounts.cases import CHAT, COMPLETIONS, ERROR_EVENT, GENERATE, LEFT, RANK, SILENT, WHOLE, Case
from tests.accounts.figures import MODEL, Answer, Piece
from tests.e2e.metered import KEY, account_of, usage_of
from tests.support.client import NoResponse, RawClient, RawResponse, request
from tests.support.gateway import Running, running
from tests.support.tenants import join, scopes_of

LIMIT: Final = 1_000_000
LIMITS: Final = {
    "daily_token_quota": LIMIT, "tokens_per_minute": LIMIT, "rate_limit_per_minute": 100_000, "key_concurrency": 50,
    "key_budget": "1000", "prices": [PriceConfig(model="*", **PRICES)],
    "tenants": [TenantConfig(name="lab", daily_tokens=LIMIT, tokens_per_minute=LIMIT, concurrency=50)],
    "routes": [RouteConfig(model=MODEL, daily_tokens=LIMIT, key_daily_tokens=LIMIT, key_tokens_per_minute=LIMIT)],
}  # fmt: skip
MODELS: Final = b'{"object":"list","data":[]}'
REFUSAL: Final = b'{"error":{"message":"no such thing","type":"invalid_request_error","param":null,"code":null}}'
STATUS: Final = {"refused": b"400 Bad Request", "failed": b"500 Internal Server Error"}


def wire_plain(status: bytes, body: bytes, kind: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (status, kind, len(body), body)


class Conversation:
    """A case under way: what the engine has got and sent, what the client has read."""

    def __init__(self, case: Case, number: int = 0) -> None:
        self.case = case
        self.number = str(number)
        self.answer: Answer = answer_of(case)
        self.gw: Running | None = None
        self.got = asyncio.Event()  # the engine has the request
        self.read = asyncio.Event()  # the client has all that the engine has sent
        self.reserved = 0  # of the day, when the engine had the request
        self.packed = False
        self.chance = random.Random(str(case))

    # --- the engine
    async def serve(self, conn: ScriptedConnection) -> None:
        while True:
            seen = await conn.read_request()
            if seen.method == b"GET":
                await conn.send(wire_plain(b"200 OK", MODELS))
            elif not await self.play(conn, seen):
                return

    async def play(self, conn: ScriptedConnection, seen: RawRequest) -> bool:
        case = self.case
        assert self.gw is not None
        self.reserved = account_of(self.gw).ledger.reserved
        self.got.set()
        if case.ending == "left before the head":
            await conn.wait_closed()
            return False
        if case.ending == "died before the head":
            conn.close()
            return False
        if case.ending in STATUS:
            await conn.send(wire_plain(STATUS[case.ending], REFUSAL))
            return True
        asked = b"gzip" in (seen.header(b"accept-encoding") or b"")
        self.packed = case.coding == "gzip unasked" or (case.coding == "gzip asked for" and asked)
        pieces = cut(case, self.answer)
        bodies = [piece.data for piece in pieces]
        if self.packed:
            bodies = packed(bodies)
        await self._send(conn, self._head(bodies), bodies, pieces)
        if case.ending.startswith("left"):
            await conn.wait_closed()
            return False
        if case.ending == "died midway":
            async with asyncio.timeout(10):
                await self.read.wait()
            conn.reset()
            return False
        if case.framing == "chunked":
            await conn.send(b"0\r\n\r\n")
        return case.framing != "close"

    def _head(self, bodies: list[bytes]) -> bytes:
        """What stands before the body; its length is that of the whole answer."""
        case = self.case
        lines = [b"HTTP/1.1 200 OK", b"content-type: " + self.answer.content_type.encode()]
        if self.packed:
            lines.append(b"content-encoding: gzip")
        if case.coding == "identity":
            lines += [b"content-encoding: identity", b"x-original-content-encoding: gzip"]
        if case.framing == "chunked":
            lines.append(b"transfer-encoding: chunked")
        elif case.framing == "length":
            whole = bodies if self.packed else [piece.data for piece in self.answer.pieces]
            lines.append(b"content-length: %d" % sum(map(len, whole)))
        else:
            lines.append(b"connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n"

    async def _send(self, conn: ScriptedConnection, head: bytes, bodies: list[bytes], pieces: list[Piece]) -> None:
        chunked = self.case.framing == "chunked"
        if self.case.ending == "died midway" or self.case.split == "whole":
            data = [b"".join(bodies)] if not self.case.stream else bodies
            await conn.send(head + b"".join(_chunk(one) if chunked else one for one in data if one))
            return
        wire = head + b"".join(_chunk(one) if chunked else one for one in bodies if one)
        if self.case.split == "pieces":
            cuts = sorted(self.chance.randrange(1, len(wire)) for _ in range(4))
        else:
            # Around where the figures stand: inside a name, inside a number.
            at = max(wire.find(b'"usage"'), wire.find(b'"timings"'), 40)
            cuts = sorted({at + step for step in (3, 9, 27, 41) if at + step < len(wire)})
        for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
            if wire[start:end]:
                await conn.send(wire[start:end])
                await asyncio.sleep(0.001)

    # --- the client
    async def ask(self, client: RawClient) -> RawResponse | None:
        case = self.case
        body, kind = request_of(case)
        headers = [("Content-Type", kind), ("X-Case", self.number)]
        if case.coding == "gzip asked for":
            headers.append(("Accept-Encoding", "gzip, deflate"))
        data = request("POST", case.path, headers=headers, body=body, key=KEY)
        if case.ending not in LEFT and case.ending != "died midway":
            try:
                return await client.ask(data, 10.0)
            except NoResponse as none:
                raise AssertionError(f"{case}: {none}") from none
        await client.send(data)
        if case.ending == "left before the head" or (case.ending == "left after the head" and case.api not in SILENT):
            async with asyncio.timeout(10):
                await self.got.wait()
            if case.ending == "left after the head":
                await asyncio.sleep(0.01)  # (a head waits for what shows that there is an answer: nobody sees it here)
            client.close()
            return None
        if case.ending == "left after the head":
            answer = await client.read_head()
            client.close()
            return answer
        answer = await client.read_head()
        await client.read_size(answer, len(self.expected()) - self.waits(), 10.0)
        self.read.set()
        if case.ending == "left midway":
            client.close()
            return answer
        return await client.read_body(answer)

    def expected(self) -> bytes:
        """What the client must get of the body: the engine's bytes, but for a chunk that it did not ask for."""
        case = self.case
        return b"".join(piece.data for piece in cut(case, self.answer) if not (self.stripped() and piece.extra))

    def stripped(self) -> bool:
        """Whether that chunk is taken out. (What is packed cannot be; and of llama.cpp nobody has asked for it.)"""
        case = self.case
        return case.api in (CHAT, COMPLETIONS) and not case.asks_usage and not self.packed

    def waits(self) -> int:
        """So much of that waits for one event more, which does not come: a last chunk, behind which that one might stand."""
        last = cut(self.case, self.answer)[-1].data
        closes = b'"finish_reason":"' in last.replace(b": ", b":") and self.case.fields != "timings"
        return len(last) if closes and self.stripped() and self.case.stream else 0


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# --- the books


async def wrong_with(case: Case) -> list[str]:
    """Play ``case`` on a gateway of its own; what is not as it must be."""
    talk = Conversation(case)
    kind = "llamacpp" if case.fields == "timings" else "vllm"
    async with ScriptedEngine(talk.serve) as engine:
        target = EngineConfig(url=engine.url, kind=kind, warm_connections=0)
        limits: dict[str, Any] = LIMITS if case.limited else {}
        async with running([target], api_keys=(KEY,), health_interval_s=3600.0, **limits) as gw:
            talk.gw = gw
            beside(gw, case)
            before = await usage_of(gw)
            async with RawClient.connect(gw.url) as client:
                answer = await talk.ask(client)
                await gw.idle()
            after = await usage_of(gw)
            record = next(one for one in gw.records if one["method"] == b"POST")
            used = after["total_tokens"] - before["total_tokens"]
            scopes = _wrong_beside(gw, case, after, used if _names_model(case) else 0)
    return [*_wrong_bytes(talk, answer), *_wrong_books(talk, before, after, record), *scopes]


async def wrong_in(cases: list[Case], **settings: Any) -> list[str]:
    """Play all of ``cases`` one after the other over one connection and one gateway; what is not as it must be."""
    talks = [Conversation(case, number) for number, case in enumerate(cases)]

    async def serve(conn: ScriptedConnection) -> None:
        while True:
            seen = await conn.read_request()
            if seen.method == b"GET":
                await conn.send(wire_plain(b"200 OK", MODELS))
            elif not await talks[int(seen.header(b"x-case") or b"")].play(conn, seen):
                return

    found = []
    of_model = 0
    async with ScriptedEngine(serve) as engine:
        target = EngineConfig(url=engine.url, kind="vllm", warm_connections=0)
        settings = {"health_interval_s": 3600.0, "cb_failure_threshold": 0, **settings}
        async with running([target], api_keys=(KEY,), **settings) as gw, RawClient.connect(gw.url) as client:
            for talk in talks:
                talk.gw = gw
                beside(gw, talk.case)
                before = await usage_of(gw)
                answer = await talk.ask(client)
                await gw.idle()
                after = await usage_of(gw)
                record = next(one for one in reversed(gw.records) if one["method"] == b"POST")
                of_model += after["total_tokens"] - before["total_tokens"] if _names_model(talk.case) else 0
                scopes = _wrong_beside(gw, talk.case, after, of_model)
                wrong = [*_wrong_bytes(talk, answer), *_wrong_books(talk, before, after, record), *scopes]
                found += [f"{talk.case}, number {talk.number}: {one}" for one in wrong]
    return found


def beside(gw: Running, case: Case) -> None:
    """Its key is one of a tenant that has limits, where the case has any."""
    core = gw.gateway.core
    assert core is not None
    if case.limited and account_of(gw).joint is None:
        join(core, KEY)


def _names_model(case: Case) -> bool:
    return MODEL.encode() in request_of(case)[0]


def _wrong_beside(gw: Running, case: Case, after: dict[str, Any], of_model: int) -> list[str]:
    """Its tenant has used what its only key has, and so has the model, and the key of it, where that was named."""
    core = gw.gateway.core
    assert core is not None
    found = []
    for scope in scopes_of(core) if case.limited else ():
        day = scope.day
        assert day is not None
        used = after["total_tokens"] if scope.kind == TENANT else of_model
        if (day.spent, day.reserved, scope.inflight) != (used, 0, 0):
            found.append(f"{scope!r}: {day.spent} used, not {used}; still reserved: {day.reserved}")
    return found


def _wrong_bytes(talk: Conversation, answer: RawResponse | None) -> list[str]:
    case = talk.case
    if case.ending in STATUS:
        assert answer is not None
        return [] if answer.body == REFUSAL else [f"the engine's refusal became {answer.body[:200]!r}"]
    if case.ending == "died before the head":
        assert answer is not None
        return [] if answer.status == 502 else [f"the client was told {answer.status}"]
    if answer is None:
        return []
    body = answer.body
    if talk.packed:
        body = zlib.decompressobj(31).decompress(body)
    wanted = talk.expected()
    if case.ending in (WHOLE, ERROR_EVENT) and (body != wanted or not answer.complete):
        return [f"the client got {len(body)} bytes of {len(wanted)} ({answer.how_ended}): {_difference(body, wanted)}"]
    if not body.startswith(wanted):
        return [f"the client got {len(body)} bytes, and should have {len(wanted)}: {_difference(body, wanted)}"]
    return []


def _difference(body: bytes, wanted: bytes) -> str:
    at = next((at for at, (a, b) in enumerate(zip(body, wanted, strict=False)) if a != b), min(len(body), len(wanted)))
    return f"from byte {at}: {body[at : at + 60]!r} for {wanted[at : at + 60]!r}"


def _wrong_books(talk: Conversation, before: dict[str, Any], after: dict[str, Any], record: dict[str, Any]) -> list[str]:
    case = talk.case
    bills = bills_of(case, talk.answer)
    verdicts = [_against(bill, before, after, record, case) for bill in bills]
    found = min(verdicts, key=len)
    if "key_budget" in after:
        assert talk.gw is not None
        told = sum(cell.cost for cell in talk.gw.gateway.core.tally.cells())
        if told != amount(after["key_budget"]["spent"]):
            found.append(f"the metrics say that {told} billionths were spent")
    used = after["total_tokens"] - before["total_tokens"]
    if after["quota_reserved"] or after["requests_under_way"]:
        found.append(f"still reserved: {after['quota_reserved']}, under way: {after['requests_under_way']}")
    if case.limited and case.api in GENERATE | RANK:
        if not used <= talk.reserved <= LIMIT:
            found.append(f"charged {used} of {talk.reserved} reserved")
        if after["quota_remaining"] != LIMIT - after["total_tokens"]:
            found.append(f"{after['quota_remaining']} are said to be left after {used}")
    return found


def _against(bill: Bill, before: dict[str, Any], after: dict[str, Any], record: dict[str, Any], case: Case) -> list[str]:
    found = []

    def judge(what: str, value: int, least: int, most: int) -> None:
        if not least <= value <= most:
            found.append(f"{what}: {value}, not {least}" + (f" to {most}" if most != least else ""))

    def difference(name: str) -> int:
        return int(after.get(name, 0)) - int(before.get(name, 0))

    prompt, completion = difference("prompt_tokens"), difference("completion_tokens")
    judge("prompt", prompt, *bill.prompt)
    judge("completion", completion, *bill.completion)
    judge("cached", difference("cached_tokens"), bill.cached, bill.cached)
    judge("reasoning", difference("reasoning_tokens"), bill.reasoning, bill.reasoning)
    judge("requests", difference("requests"), *bill.requests)
    if "key_budget" in after:
        spent, held = (amount(after["key_budget"][name]) - amount(before["key_budget"][name]) for name in ("spent", "reserved"))
        cost = cost_of(prompt, completion, difference("cached_tokens"))
        judge("money spent", spent, cost, cost)
        judge("money still reserved", held, 0, 0)
    if bill.estimated is not None:
        marked = prompt + completion if bill.estimated else 0
        judge("estimated", difference("estimated_tokens"), marked, marked)
        if bool(record["estimated"]) != (bill.estimated and prompt + completion > 0) and case.api in GENERATE | RANK:
            found.append(f"in the log estimated: {record['estimated']}")
    if prompt + completion:
        logged = max(record["prompt_tokens"], 0), max(record["completion_tokens"], 0)
        if logged != (prompt, completion):
            found.append(f"in the log {logged}, charged {(prompt, completion)}")
        told = max(record.get("cached_tokens", -1), 0), max(record.get("reasoning_tokens", -1), 0)
        if told != (bill.cached, bill.reasoning):
            found.append(f"in the log {told} cached and reasoning, not {(bill.cached, bill.reasoning)}")
    return found
