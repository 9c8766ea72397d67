"""Events go to the operator's URL until they are taken: signed, in their turn, and with an end for whoever never answers."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import aiohttp
import pytest

from fastgw.control import webhook
from fastgw.control.webhook import GIVE_UP_S, MAX_PAUSE_S, MOST_WAITING, Webhook, post
from fastgw.stats import Stats
from tests.support.gateway import Events

URL, SECRET = "https://hooks.example/of-a-secret-path", "a-secret-of-these-tests"
OUTCOMES = ("webhooks_taken", "webhooks_failed", "webhooks_lost")


class Receiver:
    """Answers with one status after the other, the last one again and again; an exception is no answer. Its clock goes on only
    while the sender pauses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *says: int | Exception) -> None:
        self.says = list(says)
        self.where = (URL, SECRET)
        self.now = 1000.0
        self.got: list[tuple[str, bytes, dict[str, str]]] = []
        self.taken: list[Any] = []
        self.pauses: list[float] = []
        self.stats, self.log = Stats(), Events()
        self.tasks: list[asyncio.Task[None]] = []
        monkeypatch.setattr(webhook, "monotonic", lambda: self.now)
        self.hook = Webhook(lambda: self.where, self._spawn, self.stats, self.log, self._post)
        self.hook.pause = self._pause

    def _spawn(self, name: str, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.get_running_loop().create_task(coro, name=name))
        return self.tasks[-1]

    async def _post(self, url: str, body: bytes, fields: Mapping[str, str]) -> int:
        self.got.append((url, body, dict(fields)))
        says = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if isinstance(says, Exception):
            raise says
        return says

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def tell(self, *events: Any) -> None:
        for event in events:
            self.hook.tell({"id": event}, lambda event=event: self.taken.append(event))

    async def end(self) -> list[int]:
        """Waits until nothing waits; what became of all."""
        await asyncio.gather(*self.tasks)
        assert len(self.hook) == 0
        return [getattr(self.stats, name) for name in OUTCOMES]

    @property
    def sent(self) -> list[Any]:
        return [json.loads(body)["id"] for _, body, _ in self.got]


async def test_an_event_is_signed_so_that_whoever_knows_the_secret_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "time", lambda: 1_700_000_000.9)
    told = Receiver(monkeypatch, 204)
    told.tell("one")
    assert await told.end() == [1, 0, 0]
    url, body, fields = told.got[0]
    made = hmac.new(SECRET.encode(), b"1700000000." + body, hashlib.sha256).hexdigest()
    assert (url, fields["X-Fastgw-Signature"]) == (URL, f"t=1700000000,v1={made}")
    told.where = (URL, "")
    told.tell("two")
    await told.end()
    assert "X-Fastgw-Signature" not in told.got[1][2]
    assert told.taken == ["one", "two"]


@pytest.mark.parametrize(("says", "tries", "outcomes"), [
    ([200], 1, [1, 0, 0]),
    ([500, 503, 202], 3, [1, 2, 0]),
    ([429, 408, 204], 3, [1, 2, 0]),
    ([aiohttp.ClientConnectionError("at hooks.example"), TimeoutError(), OSError(), 200], 4, [1, 3, 0]),
    ([302], 1, [0, 0, 1]),
    ([403], 1, [0, 0, 1]),
])  # fmt: skip
async def test_what_the_receiver_says_decides(
    monkeypatch: pytest.MonkeyPatch, says: Sequence[int | Exception], tries: int, outcomes: list[int]
) -> None:
    told = Receiver(monkeypatch, *says)
    told.tell("one")
    assert (await told.end(), len(told.got), len(told.taken)) == (outcomes, tries, outcomes[0])
    assert "hooks.example" not in str(told.log.lines)
    assert SECRET not in str(told.log.lines)


async def test_who_never_answers_is_asked_less_and_less_and_then_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Receiver(monkeypatch, TimeoutError())
    told.tell(*range(MOST_WAITING + 5))
    assert len(told.hook) == MOST_WAITING
    taken, failed, lost = await told.end()
    assert (taken, lost) == (0, MOST_WAITING + 5), "what found no room, and what was too old"
    assert failed == len(told.pauses) <= GIVE_UP_S / (MAX_PAUSE_S * 0.75) + 10
    assert told.pauses[0] < 2 < MAX_PAUSE_S * 0.7 < told.pauses[-1] <= MAX_PAUSE_S * 1.25
    messages = [message for _, message, _ in told.log.lines]
    assert messages.count("the webhook does not answer; events wait, and are sent again") == 1
    assert len(messages) <= 4, "and the log is told, but not of each"
    told.says = [200]
    told.tell("late")
    assert (await told.end())[0] == 1
    assert told.log.lines[-1][1] == "the webhook takes events again"


async def test_an_event_that_its_receiver_cannot_bear_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Receiver(monkeypatch, 500, 200)
    told.tell("ill", "well", "fine")
    assert await told.end() == [3, 1, 0]
    assert (told.sent, told.taken) == (["ill", "well", "fine", "ill"], ["well", "fine", "ill"])


async def test_settings_hold_from_the_next_try_on(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Receiver(monkeypatch, 503)
    told.tell("one", "two")
    pause = told.hook.pause

    async def other(seconds: float) -> None:
        told.where = ("http://elsewhere.example/", "") if len(told.got) == 1 else ("", "")
        await pause(seconds)

    told.hook.pause = other
    assert await told.end() == [0, 2, 2]
    assert [url for url, _, _ in told.got] == [URL, "http://elsewhere.example/"]


SAYS = {
    "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n": 302,
    "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nand no more": 200,
    "": TimeoutError,
    "SSH-2.0\r\n\r\n": aiohttp.ClientError,
}


@pytest.mark.parametrize("says", SAYS)
async def test_one_answer_is_waited_for_and_of_it_the_status_alone(monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    monkeypatch.setattr(webhook, "ANSWER_S", 0.2)
    seen: list[bytes] = []

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(says.encode())
        await reader.read()
        writer.close()

    async with await asyncio.start_server(receive, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/budgets"
        expected = SAYS[says]
        if isinstance(expected, int):
            assert await post(url, b"{}", {}) == expected
        else:
            with pytest.raises(expected):
                await post(url, b"{}", {})
    assert len(seen) == 1
    assert seen[0].startswith(b"POST /budgets HTTP/1.1\r\n")
