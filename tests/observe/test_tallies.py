"""What exchanges come to in the metrics: times to the bucket, labels that no stranger makes, a bound on all of them."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from fastgw.accel.histograms import Histogram
from fastgw.config import EngineConfig
from fastgw.config.paying import PriceConfig
from fastgw.limits.key import KeyRecord
from fastgw.observe.energy import Energy
from fastgw.observe.genai import families
from fastgw.observe.tallies import MOST_CALLERS, MOST_CELLS, MOST_STATUSES, Caller, Cell
from fastgw.upstream.fleet import deploy
from fastgw.upstream.table import UpstreamTable
from tests.conversations.engine_row import BACK_PRESSURE
from tests.support.conversation import Conversation, answering, conversation
from tests.support.requests import chat, chat_body, request
from tests.support.scripts import LAST_CHUNK, SSE_HEAD, chunk

ANSWER = b'{"choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,' \
         b'"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}}'  # fmt: skip
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
TEXT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
ROLE = b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":6}}\n\ndata: [DONE]\n\n'
LINE = b'{"model":"m","message":{"content":"a"},"done":false}\n'
LINES_HEAD = SSE_HEAD.replace(b"text/event-stream", b"application/x-ndjson")
M = EngineConfig(url="http://127.0.0.1:9", models=["m"], warm_connections=0)


def found(histogram: Any) -> dict[float, int]:
    """Its buckets that are not empty, by their bounds."""
    bounds = (*histogram.bounds.values, float("inf"))
    return {bound: count for bound, count in zip(bounds, histogram.counts(), strict=True) if count}


def only(talk: Conversation, endpoint: str = "/v1/chat/completions") -> Cell:
    (cell,) = [one for one in talk.tallies.cells() if one.endpoint == endpoint]
    return cell


def test_a_plain_answer() -> None:
    with conversation([M]) as talk:
        client = talk.client().says(chat("m"))
        talk.passes(0.3)
        talk.engines[0].last.says(OK)
        client.sees(200)
        cell = only(talk)
        assert (cell.model, cell.by_status()) == ("m", [("POST", 200, 1)])
        assert found(cell.duration) == {0.32: 1}
        assert (cell.prompt.total, cell.completion.total, cell.cached, cell.reasoning, cell.estimated) == (7, 3, 4, 2, 0)
        assert [sum(one.counts()) for one in (cell.first_token, cell.gaps, cell.per_token, cell.queued)] == [0, 0, 0, 0]
        assert sum(cell.own.counts()) == 1


@pytest.mark.parametrize("own", ["/v1/chat/completions", "/api/chat"])
def test_a_stream_by_its_text(own: str) -> None:
    """The first token is the first text; a role is none, and two events of one read have no time between them."""
    lines = own == "/api/chat"
    head, text, role, last = (LINES_HEAD, LINE, b"", LINE) if lines else (SSE_HEAD, TEXT, ROLE, USAGE)
    with conversation([M]) as talk:
        client = talk.client().says(request("POST", own, body=chat_body("m", stream=True)))
        asked = talk.engines[0].last
        if role:
            asked.says(head, chunk(role))
            talk.passes(0.3)
            asked.says(chunk(text))
        else:
            talk.passes(0.3)
            asked.says(head, chunk(text))
        for gap, piece in ((0.04, text), (0.12, text + text)):
            talk.passes(gap)
            asked.says(chunk(piece))
        talk.passes(0.5)
        asked.says(chunk(last) + LAST_CHUNK)
        client.sees(200)
        cell = only(talk, own)
        assert found(cell.first_token) == {0.5: 1}
        assert found(cell.duration) == {1.28: 1}
        # (Of lines each read is one, and the last came with the end.)
        assert found(cell.gaps) == ({0.05: 1, 0.15: 1} if lines else {0.001: 1, 0.05: 1, 0.15: 1})
        if not lines:
            assert found(cell.per_token) == {0.15: 1}  # 0.66 s for the five that followed
        engine = talk.engines[0].engine
        assert (found(engine.first_tokens), found(engine.gaps)) == (found(cell.first_token), found(cell.gaps))


def test_an_engine_answers_for_its_own_time_alone() -> None:
    """What another has taken, and what a request has waited for, is the request's."""
    two = [EngineConfig(url=f"http://127.0.0.1:{port}", models=["m"], warm_connections=0) for port in (9, 10)]
    with conversation(two, retry_statuses=BACK_PRESSURE) as talk:
        client = talk.client().says(request("POST", "/v1/chat/completions", body=chat_body("m", stream=True)))
        lost, other = sorted(talk.engines, key=lambda one: not one.asked)
        talk.passes(0.3)
        lost.last.says(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
        for _ in range(100):  # (in a moment)
            talk.passes(0.0 if other.asked else 0.005)
        talk.passes(0.05)
        other.last.says(SSE_HEAD, chunk(TEXT))
        talk.passes(0.02)
        other.last.says(chunk(TEXT), chunk(USAGE) + LAST_CHUNK)
        client.sees(200)
        assert found(only(talk).first_token) == {0.5: 1}
        assert [found(one.engine.first_tokens) for one in (lost, other)] == [{}, {0.06: 1}]
        assert [found(one.engine.gaps) for one in (lost, other)] == [{}, {0.025: 1}]


def test_who_waits_for_an_engine_and_who_is_refused() -> None:
    engine = EngineConfig(url="http://127.0.0.1:9", models=["m"], max_concurrent=1, warm_connections=0)
    with conversation([engine], api_keys=("sk-of-a-caller",)) as talk:
        first = talk.client().says(chat("m", key="sk-of-a-caller"))
        talk.passes(0.2)
        second = talk.client().says(chat("m", key="sk-of-a-caller"))
        talk.passes(0.02)
        talk.engines[0].last.says(OK)
        first.sees(200)
        talk.passes(0.001)
        talk.engines[0].last.says(OK)
        second.sees(200)
        talk.client().says(chat("m")).sees(401)
        cells = {(cell.endpoint, cell.model): cell for cell in talk.tallies.cells()}
        cell = cells["/v1/chat/completions", "m"]
        assert found(cell.queued) == {0.025: 1}
        assert found(cell.own).keys() <= {0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001}, "and none of the queue"
        assert cells["/v1/chat/completions", ""].by_status() == [("POST", 401, 1)]
        assert talk.tallies.outcomes == {"error": 1}


def test_how_engines_fail() -> None:
    with conversation([M], cb_failure_threshold=0) as talk:
        for says, kind in (
            (b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", "error"), (b"SSH-2.0\r\n\r\n", "malformed"),
            (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{", "truncated"), (b"", "lost"),
        ):  # fmt: skip
            before = dict(talk.tallies.failures)
            client = talk.client().says(chat("m"))
            asked = talk.engines[0].last
            if says:
                asked.says(says)
            if not asked.closed:
                asked.closes("reset")
            talk.passes(0.1)
            assert client.sink is None
            assert {word: count for word, count in talk.tallies.failures.items() if count != before.get(word)} == {kind: 1}


def test_M1_no_stranger_makes_a_label() -> None:
    """Models, paths, methods and keys that nobody knows are all one; so are statuses that are none of HTTP's."""
    with conversation([M], answering(OK)) as talk:
        for number in range(300):
            talk.client().says(chat(f"stranger-{number}")).sees(404)
            talk.client().says(request("POST", f"/v1/stranger-{number}", body=b"{}")).sees(404)
            talk.client().says(request("PATCH" if number % 2 else "PUT", "/v1/chat/completions")).sees(405)
        cells = {(cell.endpoint, cell.model): cell.statuses.keys() for cell in talk.tallies.cells()}
        assert cells.keys() == {("/v1/chat/completions", "other"), ("/v1/chat/completions", ""), ("unknown", "")}
        assert max(map(len, cells.values())) <= 4


def test_what_an_engine_makes_up_is_bounded_too() -> None:
    cell = Cell("e", "m")
    for status in range(100, 1000):
        for method in (b"POST", b"GET", b"BREW", b"PUT"):
            cell.count(method, status)
    rows = cell.by_status()
    assert len(rows) <= MOST_STATUSES + 9
    assert sum(count for _, _, count in rows) == 3600
    one = Cell("e", "m")
    one.count(b"BREW", 299)
    assert one.by_status() == [("other", 200, 1)]


def test_the_table_of_models_has_an_end() -> None:
    models = [f"m-{number}" for number in range(MOST_CELLS + 20)]
    with conversation([EngineConfig(url="http://127.0.0.1:9", models=models, warm_connections=0)], answering(OK)) as talk:
        client = talk.client()
        for model in models:
            client.says(chat(model)).sees(200)
        cells = talk.tallies.cells()
        assert len(cells) == MOST_CELLS + 1
        others = [cell for cell in cells if cell.model == "other"]
        assert [(cell.endpoint, cell.by_status()) for cell in others] == [("/v1/chat/completions", [("POST", 200, 20)])]
        (took, *_) = families(cells)
        assert sum(sum(one.counts) for _, one in took.samples) == len(models), "who lists many takes no operation from others"
        client.says(chat("m-0")).sees(200)
        assert len(talk.tallies.cells()) == MOST_CELLS + 1


def test_models_that_are_gone_make_room_and_nothing_that_was_counted_falls() -> None:
    """Who lists many models, and goes, leaves no endpoint without names for the next."""

    def counted(talk: Conversation) -> dict[str, float]:
        """The sum of all that a cell counts, whatever that is."""
        sums: dict[str, float] = {}
        for cell in talk.tallies.cells():
            for name in [name for name in dir(Cell) if not name.startswith("_")]:
                one = getattr(cell, name)
                many = one if isinstance(one, dict) else {"": one}
                for part in many.values():
                    amount = sum(part.counts()) if isinstance(part, Histogram) else part
                    if isinstance(amount, int | float):
                        sums[name] = sums.get(name, 0) + amount
        return sums

    models = [f"m-{number}" for number in range(MOST_CELLS)]
    prices = [PriceConfig(model="*", input="1000", output="1000")]
    with conversation([EngineConfig(url="http://127.0.0.1:9", warm_connections=0)], answering(OK), prices=prices) as talk:
        energy = talk.tallies.energy = Energy()
        energy.models |= {"m-1": 5, "m-2": 7}

        def serve(*names: str) -> None:
            talk.engines[0].engine.discovered_models = names
            talk.core.take_table(UpstreamTable(talk.engines, talk.core.table, talk.config.routes, deploy), [])

        serve(*models, "new")
        client = talk.client()
        for model in (*models, "new"):
            client.says(chat(model)).sees(200)
        for cell in talk.tallies.cells():
            cell.well_s += 4.0  # (in a conversation no time passes by itself)
        before = counted(talk)
        assert "new" not in {cell.model for cell in talk.tallies.cells()}, "while they are there, it has no place"
        serve("m-1", "new", "newer")
        for model in ("new", "newer", "m-1"):
            client.says(chat(model)).sees(200)
        rows = {cell.model: cell.by_status()[0][2] for cell in talk.tallies.cells() if cell.endpoint == "/v1/chat/completions"}
        assert rows == {"m-1": 2, "new": 1, "newer": 1, "other": MOST_CELLS}
        after = counted(talk)
        assert {name for name, was in before.items() if after[name] < was} == set()
        assert {"cost", "duration", "statuses", "well_s"} <= {name for name, was in before.items() if was}
        assert energy.models == {"m-1": 5, "other": 7}


class Drawing:
    """Whoever shares out what GPUs draw."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def used(self, *what: object) -> None:
        self.told.append(what)


@pytest.mark.parametrize(("by", "who"), [("", []), ("key", ["key:ann"]), ("tenant", ["key:ann"])])
def test_callers_by_their_ids_where_that_is_asked_for(by: Any, who: list[str]) -> None:
    drawing: Any = Drawing()
    with conversation([M], answering(OK), api_keys=("sk-of-a-caller",), metrics_by=by) as talk:
        talk.tallies.energy = drawing
        talk.client().says(chat("m", key="sk-of-a-caller")).sees(200)
        talk.client().says(chat("m", key="sk-of-nobody")).sees(401)
        told = talk.tallies.callers
        assert len(told) == len(who)
        assert drawing.told == [(M.name, "m", next(iter(told), ""), 7 - 4, 3)], "what the engine had at hand is not drawn for"
        for name, caller in told.items():
            assert "sk-" not in name
            assert (caller.requests, caller.prompt, caller.completion) == (1, 7, 3)
        talk.tallies.callers.update({str(number): Caller() for number in range(MOST_CALLERS)})
        if by == "tenant":
            del talk.tallies.callers[name]
            talk.client().says(chat("m", key="sk-of-a-caller")).sees(200)
            assert talk.tallies.callers["other"].requests == 1


def test_keys_that_are_gone_make_room_and_what_they_have_used_stays_counted() -> None:
    def key(name: str, **fields: Any) -> KeyRecord:
        return KeyRecord(id=name, digest=sha256(name.encode()).digest(), **fields)

    def total(talk: Conversation) -> list[int]:
        return [sum(getattr(one, what) for one in talk.tallies.callers.values()) for what in Caller.__slots__]

    prices = [PriceConfig(model="*", input="1000", output="1000")]
    with conversation([M], answering(OK), metrics_by="key", prices=prices) as talk:
        accounts = talk.core.accounts
        names = [f"k-{number}" for number in range(MOST_CALLERS)]
        accounts.apply([key(name) for name in (*names, "new")], 0, 0.0)
        talk.core.version += 1
        for name in (*names, "new"):
            talk.client().says(chat("m", key=name)).sees(200)
        energy = talk.tallies.energy = Energy()
        energy.callers |= {"k-1": 5, "k-2": 7, "": 1}
        before = total(talk)
        assert talk.tallies.callers["other"].requests == 1, "while they are there, it has no place"
        accounts.apply([key(name, deleted=True) for name in names[2:]], 0, 0.0)
        accounts.apply([key("k-0", expires_at=1.0)], 0, 0.0)
        talk.core.version += 1
        for _ in range(MOST_CALLERS):  # (it is looked for once in so many)
            talk.client().says(chat("m", key="new")).sees(200)
        assert set(talk.tallies.callers) == {"k-1", "new", "other"}
        assert total(talk) == [count * 2001 // 1001 for count in before]
        assert energy.callers == {"k-1": 5, "other": 7, "": 1}


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("traceparent: 00-{}-00f067aa0ba902b7-01", True), ("Traceparent:\t 00-{}-00f067aa0ba902b7-0b", True),
        ("traceparent: 00-{}-00f067aa0ba902b7-00", False), ("traceparent: 00-{}-00f067aa0ba902b7-0a", False),
        ("traceparent: 01-{}-00f067aa0ba902b7-1f-and-more", True), ("traceparent: no", False), ("accept: */*", False),
        ("x-traceparent: 00-{}-00f067aa0ba902b7-01", False), ("praceparent: 00-{}-00f067aa0ba902b7-01", False),
        ("x-traceparent: 00-0-0-0\r\ntraceparent: 00-{}-00f067aa0ba902b7-01", True),
        ("x-a: traceparent: 00-{}-00f067aa0ba902b7-01", False),
    ],
)  # fmt: skip
def test_an_exemplar_is_of_a_trace_that_somebody_keeps(said: str, kept: bool) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    lines = [line.partition(":") for line in said.format(trace).split("\r\n")]
    headers = [(name, value.removeprefix(" ")) for name, _, value in lines]
    with conversation([M], answering(OK)) as talk:
        talk.client().says(request("POST", "/v1/chat/completions", body=chat_body("m"), headers=headers)).sees(200)
        exemplars = only(talk).duration.exemplars
        assert [one[2] for one in (exemplars or {}).values()] == ([trace] if kept else [])
