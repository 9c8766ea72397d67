"""Bad bodies over real sockets, row by row: C1, C2, C3, C4, C5, C7, C9.

Each test sends one input through a real gateway to a simulated engine and asserts what client, engine and operator see.
In common to all: a refusal is a whole OpenAI-shaped answer, the connection stays usable (K), the engine has seen
nothing of a refused request (∅), and each exchange leaves exactly one access record (``running`` counts them).
"""

from __future__ import annotations

import gc
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest

from fastgw import EngineConfig
from fastgw.observe.logs import access_fields, as_json, as_text
from fastgw.sim import SimConfig, Simulator
from tests.support import json_cases, naughty
from tests.support.client import RawClient, RawResponse, chat, chat_body, request
from tests.support.gateway import Running, running
from tests.support.json_cases import EITHER, INVALID, VALID, Case

REQUEST = b'"model":"m","messages":[{"role":"user","content":"hi"}]'
GOOD = chat("m")
CHAT = "/v1/chat/completions"
UPLOADS = "/v1/audio/transcriptions"
# A probe's own time limit: many times what it takes, so that only a gateway that is held up fails on a shared machine.
PROBE_S = 0.25


class Stand:
    """A gateway, its only engine, and one client connection."""

    def __init__(self, gw: Running, sim: Simulator, client: RawClient) -> None:
        self.gw = gw
        self.sim = sim
        self.client = client

    @property
    def reached(self) -> list[Any]:
        """The requests that the engine got from clients; probes are GETs."""
        return [one for one in self.sim.requests if one.method == "POST"]

    async def ask(self, data: bytes) -> RawResponse:
        await self.client.send(data)
        return await self.client.read_response()

    async def form(self, content_type: str | None, body: bytes, path: str = UPLOADS, **options: Any) -> RawResponse:
        headers = [] if content_type is None else [("Content-Type", content_type)]
        return await self.ask(request("POST", path, headers=headers, body=body, **options))

    async def body(self, body: bytes, **options: Any) -> RawResponse:
        return await self.ask(chat(body=body, **options))

    async def still_usable(self) -> None:
        """K, and the process lives: the same connection serves a good request, and another one a probe, in time."""
        before = len(self.reached)
        answer = await self.ask(GOOD)
        assert (answer.status, answer.complete) == (200, True)
        assert [one.body for one in self.reached[before:]] == [chat_body("m")]
        async with await self.gw.client() as other:
            start = time.monotonic()
            await other.send(request("GET", "/liveness"))
            assert (await other.read_response()).status == 200
            assert time.monotonic() - start < PROBE_S


@asynccontextmanager
async def stand(*, any_model: bool = False, **settings: Any) -> AsyncIterator[Stand]:
    """``any_model`` = the engine is asked whatever the name is; else the gateway knows that it serves only ``m``."""
    sim = SimConfig(any_model=True, output_tokens=1)
    async with Simulator(sim) as engine:
        known = () if any_model else ("m",)
        async with running([EngineConfig(url=engine.url, models=known)], **settings) as gw, await gw.client() as client:
            yield Stand(gw, engine, client)


def assert_refused(answer: RawResponse, *codes: str, status: int = 400) -> None:
    """E nnn invalid_request_error, whole, and without a word about closing."""
    assert (answer.status, answer.complete) == (status, True), answer.body
    assert answer.header("content-type") == "application/json"
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.error["type"] == "invalid_request_error"
    if codes:
        assert answer.error["code"] in codes, answer.error
    assert answer.header("connection") is None


def rss_kb() -> int:
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4


class TestC1:
    """What is not JSON is E400 ire K ∅: alone, and wherever it stands in a request that is otherwise valid."""

    @pytest.mark.parametrize("case", INVALID, ids=lambda case: case.id)
    async def test_C1_invalid_json(self, case: Case) -> None:
        async with stand() as at:
            for turn, body in enumerate(json_cases.forms(case).values()):
                # By length and in chunks of odd sizes: the verdict is the document's, not the framing's.
                answer = await at.body(body, chunked=(1, 7, 4096) if turn % 2 else None)
                assert_refused(answer, "invalid_json")
            assert at.reached == []
            await at.still_usable()
            assert [one["status"] for one in at.gw.records[:5]] == [400] * 5

    @pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/v1/messages", "/tokenize", "/v1/rerank"])
    async def test_C1_on_every_kind_of_endpoint(self, path: str) -> None:
        async with stand() as at:
            for body in (b"{", b'{"model":"m",}', b"{'model':'m'}", b'{"model":"m"}}', b'{"model":"m"} x', b'{"model":m}'):
                answer = await at.body(body, path=path)
                assert answer.status == 400
                assert answer.error["type"] == "invalid_request_error"
            assert at.reached == []
            await at.still_usable()

    async def test_C1_json_sent_to_an_upload_endpoint_is_judged_as_json(self) -> None:
        async with stand() as at:
            assert_refused(await at.body(b'{"model":"m",}', path=UPLOADS), "invalid_json")
            assert at.reached == []
            await at.still_usable()

    async def test_C1_a_thousand_times_leaves_nothing(self) -> None:
        bodies = [body for case in INVALID if len(case.document) < 2000 for body in json_cases.forms(case).values()][::3]
        async with stand() as at:
            for body in bodies[:100]:
                await at.body(body)
            base = rss_kb()
            for turn in range(1000):
                assert (await at.body(bodies[turn % len(bodies)])).status == 400
            assert rss_kb() - base < 5000
            await at.still_usable()


class TestC2:
    """Valid JSON is never called invalid; where parsers may differ, the answer is a 2xx or 4xx, never a 500."""

    @pytest.mark.parametrize("case", VALID, ids=lambda case: case.id)
    async def test_C2_valid_json(self, case: Case) -> None:
        async with stand() as at:
            # Alone it names no model, is no object, or says something twice: that is what may be wrong with it.
            answer = await at.body(case.document)
            assert_refused(answer, "missing_model", "invalid_parameter", "duplicate_member")
            assert "not valid JSON" not in answer.error["message"]
            assert at.reached == []
            for body in json_cases.wrapped(case.document).values():
                answer = await at.body(body)
                assert answer.status == 200, answer.body
                assert at.reached[-1].body == body
            await at.still_usable()

    @pytest.mark.parametrize("case", EITHER, ids=lambda case: case.id)
    async def test_C2_either(self, case: Case) -> None:
        async with stand() as at:
            for body in json_cases.forms(case).values():
                before = len(at.reached)
                answer = await at.body(body)
                assert answer.status == 200 or 400 <= answer.status < 500, answer.body
                assert answer.complete
                if len(at.reached) > before:
                    assert (at.reached[-1].body_length, at.reached[-1].sha256) == (len(body), hashlib.sha256(body).hexdigest())
                else:
                    assert_refused(answer)
            await at.still_usable()

    @pytest.mark.parametrize("document", [b"[]", b'"m"', b"1", b"null", b"true", b"[{}]", b" [ ] \n"])
    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
    async def test_C2_a_body_that_is_no_object_is_refused_for_that(self, path: str, document: bytes) -> None:
        async with stand() as at:
            answer = await at.body(document, path=path)
            assert_refused(answer, "missing_model", "invalid_parameter")
            assert "object" in answer.error["message"]
            assert at.reached == []
            await at.still_usable()


NOT_NUMBERS = ["NaN", "-NaN", "Infinity", "-Infinity", "+Infinity", "inf", "-inf", "nan", "1e", "0x10"]
PLACES = {
    "temperature": '{%s,"temperature":@}',
    "max_tokens": '{%s,"max_tokens":@}',
    "n": '{%s,"n":@}',
    "seed-first": '{"seed":@,%s}',
    "logit_bias": '{%s,"logit_bias":{"50256":@}}',
    "stop": '{%s,"stop":["a",@]}',
    "stream": '{%s,"stream":@}',
    "nested": '{%s,"x":[[{"y":[@]}]]}',
}


class TestC3:
    """NaN and Infinity are no JSON, wherever they stand: E400, although many parsers take them."""

    @pytest.mark.parametrize("value", NOT_NUMBERS)
    @pytest.mark.parametrize("place", PLACES)
    async def test_C3_not_a_number(self, place: str, value: str) -> None:
        body = (PLACES[place] % REQUEST.decode()).replace("@", value).encode()
        async with stand() as at:
            assert_refused(await at.body(body), "invalid_json")
            assert at.reached == []
            await at.still_usable()

    @pytest.mark.parametrize("value", ['"NaN"', '"Infinity"', "1e308", "-0.0"])
    async def test_C3_what_only_looks_like_it_passes(self, value: str) -> None:
        body = b'{%b,"temperature":0,"x":%b}' % (REQUEST, value.encode())
        async with stand() as at:
            assert (await at.body(body)).status == 200
            assert [one.body for one in at.reached] == [body]


def nested(depth: int, kind: str) -> bytes:
    """A chat request whose deepest bracket is at ``depth`` (the request's own object is at 1)."""
    inner = depth - 1
    if kind == "arrays":
        value = b"[" * inner + b"]" * inner
    elif kind == "objects":
        value = b'{"":' * inner + b"0" + b"}" * inner
    else:
        value = (b'[{"k":' * inner)[: 6 * (inner // 2)] + b"[" * (inner % 2) + b"1" + b"]" * (inner % 2) + b"}]" * (inner // 2)
    return b'{%b,"x":%b}' % (REQUEST, value)


FLOODS = {
    "arrays": b"[" * 100_000,
    "arrays-and-objects": b'[{"":' * 50_000,
    "objects": b'{"a":' * 50_000,
    "in-a-request": b'{%b,"x":%b' % (REQUEST, b"[" * 250_000),
    "closed": b'{%b,"x":%b%b}' % (REQUEST, b"[" * 125_000, b"]" * 125_000),
    "closed-crosswise": b'{%b,"x":%b}' % (REQUEST, b"[{" * 60_000 + b"]}" * 60_000),
    "behind-strings": b'{%b,"x":%b' % (REQUEST, b'["]",' * 50_000),
    "behind-escapes": b'{%b,"x":%b' % (REQUEST, b'["\\"]\\\\",' * 25_000),
    "open-string": b'{%b,"x":"%b' % (REQUEST, b"[" * 250_000),
    "closing-only": b'{%b,"x":%b' % (REQUEST, b"]" * 250_000),
    "deep-again-and-again": b'{%b,"x":[%b0]}' % (REQUEST, (b"[" * 64 + b"]" * 64 + b",") * 1900),
}


class TestC4:
    """Deep nesting is E400 within 5 ms of CPU and without recursion; the limit is exact, and strings do not count."""

    @pytest.mark.parametrize("kind", FLOODS)
    async def test_C4_flood_of_brackets(self, kind: str) -> None:
        body = FLOODS[kind]
        async with stand() as at:
            spent = []
            for _ in range(5):
                start = time.process_time()
                assert_refused(await at.body(body), "invalid_json")
                spent.append(time.process_time() - start)
            assert at.reached == []
            assert min(spent) < 0.005, spent  # the client's own share included
            await at.still_usable()

    @pytest.mark.parametrize("kind", ["arrays", "objects", "mixed"])
    @pytest.mark.parametrize("limit", [64, 5, 200])
    async def test_C4_the_limit_is_exact(self, limit: int, kind: str) -> None:
        async with stand(max_json_depth=limit) as at:
            for depth in (limit + 1, limit + 2, limit * 3):
                assert_refused(await at.body(nested(depth, kind)), "invalid_json")
            assert at.reached == []
            for depth in (limit - 1, limit):
                body = nested(depth, kind)
                assert (await at.body(body)).status == 200
                assert at.reached[-1].body == body

    async def test_C4_brackets_inside_strings_do_not_count(self) -> None:
        for text in ("[" * 70, '"[' * 70, '\\"[' * 70, "\\" * 71 + "{" * 70, "]}" * 70 + "[{" * 70, '\\"' * 33 + "[" * 200):
            async with stand() as at:
                body = chat_body("m", content=text)
                assert (await at.body(body)).status == 200
                assert at.reached[-1].body == body

    async def test_C4_many_brackets_that_are_not_deep_pass(self) -> None:
        async with stand() as at:
            body = b'{%b,"x":[%b0]}' % (REQUEST, b'[[{"a":[]}]],' * 2000)
            assert (await at.body(body)).status == 200
            assert at.reached[-1].body == body


ENCODINGS: dict[str, bytes] = {
    "stray-continuation": b"a\x80b",
    "ff": b"\xff",
    "fe-fe-ff-ff": b"\xfe\xfe\xff\xff",
    "latin-1": "caf\N{LATIN SMALL LETTER E WITH ACUTE}".encode("latin-1"),
    "cut-2": b"a\xc3",
    "cut-3": b"a\xe2\x82",
    "cut-4": b"a\xf0\x9f\x98",
    "overlong-2": b"\xc0\xaf",
    "overlong-3": b"\xe0\x80\xaf",
    "overlong-4": b"\xf0\x80\x80\xaf",
    "overlong-quote": b"\xc0\xa2,\xc0\xa2model\xc0\xa2:\xc0\xa2x",
    "overlong-nul": b"\xc0\x80",
    "surrogate-utf-8": b"\xed\xa0\x80",
    "surrogate-pair-utf-8": b"\xed\xa0\xbd\xed\xb8\x80",
    "above-10ffff": b"\xf4\x90\x80\x80",
    "five-bytes": b"\xf8\x88\x80\x80\x80",
    "lone-high": b"\\ud800",
    "lone-low": b"\\udfff",
    "two-highs": b"\\ud83d\\ud83d",
    "reversed": b"\\udc00\\ud800",
    "pair-escaped": b"\\ud83d\\ude00",
    "bom-inside": b"\xef\xbb\xbfx",
    "noncharacter": b"\xef\xbf\xbf",
    "astral": "\U0001f600\U0010ffff".encode(),
    "nfd": "e\N{COMBINING ACUTE ACCENT}\N{ANGSTROM SIGN}".encode(),
    "right-to-left": "\N{RIGHT-TO-LEFT OVERRIDE}x".encode(),
    "line-separators": "\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}".encode(),
    "escaped-ascii": b"\\u0041\\/\\u002F",
}
WHERE = {
    "content": b'{"model":"m","messages":[{"role":"user","content":"@"}]}',
    "key": b'{%b,"x@":1}' % REQUEST,
    "nested-key": b'{"x":{"@":[1]},%b}' % REQUEST,
    "unknown-value": b'{%b,"x":[null,"@"]}' % REQUEST,
}


def is_utf_8(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True


USAGE = b'{"stream_options":{"include_usage":true},'


class TestC5:
    """Odd encodings are E400, or reach the engine byte for byte; nothing is ever decoded and encoded again."""

    @pytest.mark.parametrize("name", ENCODINGS)
    @pytest.mark.parametrize("place", WHERE)
    async def test_C5_refused_or_identical(self, place: str, name: str) -> None:
        body = WHERE[place].replace(b"@", ENCODINGS[name])
        async with stand() as at:
            answer = await at.body(body)
            if at.reached:
                assert [one.body for one in at.reached] == [body]
            else:
                assert_refused(answer, "invalid_json")
            await at.still_usable()

    @pytest.mark.parametrize("name", [name for name, octets in ENCODINGS.items() if not is_utf_8(octets)])
    async def test_C5_bytes_that_are_no_utf_8_are_refused_everywhere(self, name: str) -> None:
        async with stand() as at:
            for template in WHERE.values():
                assert_refused(await at.body(template.replace(b"@", ENCODINGS[name])), "invalid_json")
            assert at.reached == []

    @pytest.mark.parametrize("name", ENCODINGS)
    async def test_C5_the_one_edit_of_a_stream_leaves_the_rest_alone(self, name: str) -> None:
        body = b'{"stream":true,' + WHERE["content"].replace(b"@", ENCODINGS[name])[1:]
        async with stand() as at:
            answer = await at.body(body)
            assert answer.complete
            if at.reached:
                assert at.reached[0].body == USAGE + body[1:]
            else:
                assert_refused(answer, "invalid_json")
            await at.still_usable()

    @pytest.mark.parametrize("name", ENCODINGS)
    async def test_C5_in_the_model_itself(self, name: str) -> None:
        body = b'{"model":"%b","messages":[{"role":"user","content":"x"}]}' % ENCODINGS[name]
        async with stand(any_model=True) as at:
            answer = await at.body(body)
            if at.reached:
                assert [one.body for one in at.reached] == [body]
            else:
                assert_refused(answer)
            assert_loggable(at.gw)
            await at.still_usable()

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7-like"])
    async def test_C5_other_encodings_of_a_whole_request(self, encoding: str) -> None:
        text = chat_body("m", content="\N{LATIN SMALL LETTER E WITH ACUTE}").decode()
        body = b"+AHs-" + text.encode()[1:] if encoding == "utf-7-like" else text.encode(encoding)
        async with stand() as at:
            assert_refused(await at.form("application/json", body, CHAT), "invalid_json")
            named = await at.form(f"application/json; charset={encoding}", body, CHAT)
            assert_refused(named, "unsupported_media_type", status=415)
            assert at.reached == []
            await at.still_usable()


LABELS = {"/v1/chat/completions", "/v1/embeddings", UPLOADS, "/v1/models/{id}", "/liveness", "unknown"}


def assert_loggable(gw: Running) -> None:
    """Each record is one line of JSON that says nothing else, and one line of plain text without a control character."""
    for record in gw.raw_records:
        fields = access_fields(record)
        line = as_json(fields)
        assert line.count(b"\n") == 1
        assert not set(line[:-1]) & set(range(32))
        assert json.loads(line) == json.loads(json.dumps(fields))
        text = as_text(fields).decode()
        assert text.endswith("\n")
        assert text[:-1].isprintable(), text
        assert fields["endpoint"] in LABELS


def assert_not_injected(answer: RawResponse) -> None:
    assert answer.header("x-injected") is None
    assert b"injected" not in answer.raw_head.lower()


WRONG_MODELS = {
    "int": b"1",
    "zero": b"0",
    "negative": b"-1",
    "float": b"1.5",
    "huge": b"1" * 300,
    "null": b"null",
    "true": b"true",
    "array": b"[]",
    "array-of-name": b'["m"]',
    "object": b"{}",
    "object-with-id": b'{"id":"m"}',
    "empty": b'""',
    "257": b'"%b"' % (b"m" * 257),
    "10kB": b'"%b"' % (b"m" * 10_000),
    "10kB-escaped": b'"%b"' % (b"\\u006d" * 10_000),
    "nul": b'"m\\u0000"',
    "crlf": b'"m\\r\\nX-Injected: yes"',
    "lf": b'"\\nm"',
    "escape": b'"\\u001b[31mm"',
    "delete": b'"m\\u007f"',
}


def multipart(model: bytes, boundary: bytes = b"xxBOUNDARYxx") -> bytes:
    """A transcription request whose ``model`` field holds ``model`` as it is."""
    return b"".join(
        (
            b"--%b\r\n" % boundary,
            b'Content-Disposition: form-data; name="model"\r\n\r\n',
            model,
            b"\r\n--%b\r\n" % boundary,
            b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF',
            b"\r\n--%b--\r\n" % boundary,
        )
    )


def upload(body: bytes, content_type: str = "multipart/form-data; boundary=xxBOUNDARYxx", **options: Any) -> bytes:
    return request("POST", UPLOADS, headers=[("Content-Type", content_type)], body=body, **options)


class TestC7:
    """A bad ``model`` is E400 or E404 K ∅, and breaks no header, no log line and no label."""

    @pytest.mark.parametrize("name", WRONG_MODELS)
    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
    async def test_C7_wrong_type_or_size(self, path: str, name: str) -> None:
        async with stand(any_model=True) as at:
            for body in (
                b'{"model":%b,"messages":[{"role":"user","content":"x"}]}',
                b'{"input":"x","model" : %b }',
                b'{"stream":true,"model":%b}',
            ):
                answer = await at.body(body % WRONG_MODELS[name], path=path)
                assert_refused(answer, "invalid_parameter", "missing_model")
                assert answer.error["param"] == "model"
                assert_not_injected(answer)
            assert at.reached == []
            assert_loggable(at.gw)
            await at.still_usable()

    @pytest.mark.parametrize("name", naughty.STRINGS, ids=range(len(naughty.STRINGS)))
    async def test_C7_naughty_names_that_nobody_serves(self, name: str) -> None:
        async with stand() as at:
            for spelling in naughty.spellings(name):
                for template in (b'{"model":%b,"messages":[]}', b'{"messages":[],"stream":true,"model":%b}'):
                    answer = await at.body(template % spelling)
                    assert_refused(answer, "invalid_parameter", "model_not_found", "missing_model", status=answer.status)
                    assert answer.status in (400, 404)
                    assert answer.error["param"] == "model"
                    assert_not_injected(answer)
            answer = await at.ask(request("GET", "/v1/models/" + quote(name[:2000], safe="")))
            assert answer.status == 404
            assert_not_injected(answer)
            assert at.reached == []
            assert_loggable(at.gw)
            await at.still_usable()

    @pytest.mark.parametrize("name", naughty.STRINGS, ids=range(len(naughty.STRINGS)))
    async def test_C7_naughty_names_for_an_engine_that_takes_any(self, name: str) -> None:
        async with stand(any_model=True) as at:
            for spelling in naughty.spellings(name):
                body = b'{"model":%b,"messages":[{"role":"user","content":"x"}]}' % spelling
                before = len(at.reached)
                answer = await at.body(body)
                if len(at.reached) > before:
                    assert answer.status == 200
                    assert at.reached[-1].body == body
                    assert at.reached[-1].header("x-injected") is None
                    assert at.gw.records[-1]["model"] == name
                else:
                    assert_refused(answer, "invalid_parameter")
                assert_not_injected(answer)
            assert_loggable(at.gw)
            await at.still_usable()

    @pytest.mark.parametrize("name", naughty.STRINGS, ids=range(len(naughty.STRINGS)))
    async def test_C7_naughty_names_in_a_form(self, name: str) -> None:
        async with stand() as at:
            answer = await at.ask(upload(multipart(name.encode())))
            assert answer.status in (400, 404), answer.body
            assert_refused(answer, status=answer.status)
            assert_not_injected(answer)
            assert at.reached == []
            assert_loggable(at.gw)
            await at.still_usable()

    async def test_C7_a_thousand_names_leave_nothing(self) -> None:
        async with stand() as at:
            names = [name for name in naughty.STRINGS if len(name) < 3000]
            for turn in range(100):
                await at.body(chat_body(names[turn % len(names)]))
            base = rss_kb()
            for turn in range(1000):
                name = names[turn % len(names)]
                assert (await at.body(chat_body(f"{name}{turn}"))).status in (400, 404)
            assert rss_kb() - base < 5000
            assert at.reached == []
            await at.still_usable()


BAD_TYPES = [
    "text/plain",
    "application/x-www-form-urlencoded",
    "application/octet-stream",
    "application/jsonp",
    "application/xml",
    "multipart/form-data; boundary=x",
    "multipart/form-data",
    "json",
    ";;;",
    "application / json",
    "application/json, text/plain",
]
GOOD_TYPES = [
    "application/json",
    "Application/JSON",
    "application/json; charset=utf-8",
    "application/json;charset=UTF-8 ",
    "application/problem+json",
]

BOUNDARIES = {
    "none": "multipart/form-data",
    "empty": "multipart/form-data; boundary=",
    "quoted-empty": 'multipart/form-data; boundary=""',
    "two": "multipart/form-data; boundary=xxBOUNDARYxx; boundary=other",
    "too-long": f"multipart/form-data; boundary={'x' * 71}",
    "bad-character": "multipart/form-data; boundary=xx<BOUNDARY>xx",
    "other-parameter": "multipart/form-data; charset=utf-8",
    "trailing-space-quoted": 'multipart/form-data; boundary="xx "',
    "extended": "multipart/form-data; boundary=xxBOUNDARYxx; boundary*=utf-8''other",
    "hidden": 'multipart/form-data; x="; boundary=other"; boundary=xxBOUNDARYxx',
}


def part(headers: bytes = b'Content-Disposition: form-data; name="x"', value: bytes = b"1") -> bytes:
    return b"--xxBOUNDARYxx\r\n%b\r\n\r\n%b\r\n" % (headers, value)


MODEL = part(b'Content-Disposition: form-data; name="model"', b"m")
END = b"--xxBOUNDARYxx--\r\n"
FORMS = {
    "empty": b"",
    "not-multipart": b'{"model":"m"}',
    "no-parts": END,
    "wrong-boundary": MODEL.replace(b"BOUNDARY", b"OTHER") + b"--xxOTHERxx--\r\n",
    "no-model": part() + END,
    "10^4-parts": part() * 10_000 + MODEL + END,
    "10^4-empty-parts": b"--xxBOUNDARYxx\r\n\r\n\r\n" * 10_000 + END,
    "1MB-part-header": part(b"X-Long: " + b"a" * 1_000_000) + MODEL + END,
    "1MB-name": part(b'Content-Disposition: form-data; name="' + b"a" * 1_000_000 + b'"') + MODEL + END,
    "1MB-of-header-lines": part(b"\r\n".join([b"A: b"] * 170_000)) + MODEL + END,
    "1MB-unended-header": b"--xxBOUNDARYxx\r\nX-Long: " + b"a" * 1_000_000,
    "1MB-preamble": b"a" * 1_000_000 + b"\r\n" + MODEL + END,
    "1MB-model": part(b'Content-Disposition: form-data; name="model"', b"m" * 1_000_000) + END,
    "1MB-boundary-padding": b"--xxBOUNDARYxx" + b" " * 1_000_000 + b"\r\n",
    "junk-after-boundary": b"--xxBOUNDARYxxjunk\r\n" + MODEL + END,
    "header-without-colon": part(b"Content-Disposition form-data") + MODEL + END,
    "two-dispositions": part(b'Content-Disposition: form-data; name="model"\r\nContent-Disposition: form-data; name="x"') + END,
    "two-models": MODEL + MODEL + END,
    "hidden-model": part(b'Content-Disposition: form-data; name="model"; x="; filename=y"', b"m") + MODEL + END,
    "model-in-disguise": part(b'Content-Disposition: form-data; name="/model"', b"m") + MODEL + END,
    "model-as-a-file": part(b'Content-Disposition: form-data; name="model"; filename="m"', b"m") + END,
    "two-forms": MODEL + END + MODEL + END,
    "no-end": MODEL,
    "model-not-utf-8": part(b'Content-Disposition: form-data; name="model"', b"\xff\xfe") + END,
    "model-empty": part(b'Content-Disposition: form-data; name="model"', b"") + END,
}
# Refused although they name a model that is served, or which, only after it was found: forwarding has begun by then.
AFTER_MODEL = {"two-models", "two-forms"}


def sizes(body: bytes) -> Iterator[tuple[int, ...] | None]:
    yield None
    yield (65536,) if len(body) > 5000 else (1,)


class TestC9:
    """Empty bodies, wrong content types and broken multipart are E400 or E415 K; scanning them is bounded."""

    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/tokenize"])
    @pytest.mark.parametrize("content_type", ["application/json", None])
    async def test_C9_empty_body(self, path: str, content_type: str | None) -> None:
        headers = [] if content_type is None else [("Content-Type", content_type)]
        async with stand() as at:
            for options in ({"body": b""}, {"chunked": (1,)}):
                assert_refused(await at.ask(request("POST", path, headers=headers, **options)), "invalid_json")  # type: ignore[arg-type]
            answer = await at.ask(request("POST", path, headers=headers))
            assert_refused(answer, status=411)  # no length at all: the standard's own word for it
            for blank in (b" ", b"\r\n", b"\t\n  "):
                assert_refused(await at.ask(request("POST", path, headers=headers, body=blank)), "invalid_json")
            assert at.reached == []
            await at.still_usable()

    @pytest.mark.parametrize("content_type", BAD_TYPES)
    async def test_C9_wrong_content_type(self, content_type: str) -> None:
        async with stand() as at:
            for body in (chat_body("m"), b"", b"x" * 200_000):
                for chunked in sizes(body):
                    answer = await at.form(content_type, body, CHAT, chunked=chunked)
                    assert_refused(answer, "unsupported_media_type", status=415)
            assert at.reached == []
            await at.still_usable()

    @pytest.mark.parametrize("content_type", GOOD_TYPES)
    async def test_C9_right_content_type(self, content_type: str) -> None:
        async with stand() as at:
            answer = await at.form(content_type, chat_body("m"), CHAT)
            assert answer.status == 200

    @pytest.mark.parametrize(
        "content_type", ["text/plain", "audio/wav", "multipart/mixed; boundary=x", "multipart/form-dat; boundary=x", None]
    )
    async def test_C9_an_upload_that_is_no_form(self, content_type: str | None) -> None:
        async with stand() as at:
            for body in (multipart(b"m"), b""):
                answer = await at.form(content_type, body)
                assert_refused(answer, "unsupported_media_type", status=415)
            assert at.reached == []
            await at.still_usable()

    @pytest.mark.parametrize("name", BOUNDARIES)
    async def test_C9_multipart_boundary(self, name: str) -> None:
        async with stand() as at:
            for chunked in (None, (7,)):
                assert_refused(await at.ask(upload(multipart(b"m"), BOUNDARIES[name], chunked=chunked)), "invalid_multipart")
            assert at.reached == []
            await at.still_usable()

    @pytest.mark.parametrize("name", FORMS)
    async def test_C9_malformed_form(self, name: str) -> None:
        body = FORMS[name]
        async with stand() as at:
            for chunked in sizes(body):
                answer = await at.ask(upload(body, chunked=chunked))
                assert_refused(answer, "invalid_multipart", "missing_model", "invalid_parameter")
                if name not in AFTER_MODEL:
                    assert at.reached == []
            await at.still_usable()

    @pytest.mark.parametrize("name", [name for name in FORMS if name.startswith(("1MB", "10^4"))])
    async def test_C9_refused_long_before_the_end(self, name: str) -> None:
        """The answer comes while most of the body is still unsent: nobody waits for a megabyte of header."""
        data = upload(FORMS[name])
        early = 100_000
        async with stand() as at:
            assert_refused(await at.ask(data[:early]), "invalid_multipart")
            await at.client.send(data[early:])  # what still comes is thrown away
            await at.still_usable()
            assert at.gw.records[0]["bytes_in"] <= early

    @pytest.mark.parametrize("split", [1, 2, 13, 64])
    async def test_C9_a_good_form_however_it_is_cut(self, split: int) -> None:
        body = multipart(b"m")
        async with stand() as at:
            await at.client.send_slowly(upload(body), split, pause=0)
            assert (await at.client.read_response()).status == 200
            assert [one.body for one in at.reached] == [body]

    async def test_C9_again_and_again_leaves_nothing(self) -> None:
        async with stand() as at:
            requests = [upload(FORMS[name]) for name in FORMS if len(FORMS[name]) < 5000] + [upload(FORMS["1MB-part-header"])]
            for data in requests:
                await at.ask(data)
            base = rss_kb()
            for turn in range(1000):
                # The large one now and then: it is a megabyte each time.
                data = requests[-1] if turn % 50 == 0 else requests[turn % (len(requests) - 1)]
                assert (await at.ask(data)).status == 400
            assert rss_kb() - base < 5000
            await at.still_usable()
