"""Bad bodies over real sockets, row by row: C1 … C5. C7 is in ``test_cases_c_models.py``, C9 in ``test_cases_c_forms.py``.

Each test sends one input through a real gateway to a simulated engine and asserts what client, engine and operator see.
In common to all: a refusal is a whole OpenAI-shaped answer, the connection stays usable (K), the engine has seen
nothing of a refused request (∅), and each exchange leaves exactly one access record (``running`` counts them).
"""

from __future__ import annotations

import hashlib
import time
from itertools import product

import pytest

from tests.e2e.bodies import CHAT, UPLOADS, assert_loggable, assert_refused, rss_kb, stand
from tests.support import json_cases
from tests.support.client import chat_body
from tests.support.json_cases import EITHER, INVALID, VALID

REQUEST = b'"model":"m","messages":[{"role":"user","content":"hi"}]'


class TestC1:
    """What is not JSON is E400 ire K ∅: alone, and wherever it stands in a request that is otherwise valid."""

    async def test_C1_invalid_json(self) -> None:
        async with stand() as at:
            for case in INVALID:
                async with at.row(case.id):
                    forms = json_cases.forms(case).values()
                    for turn, body in enumerate(forms):
                        # By length and in chunks of odd sizes: the verdict is the document's, not the framing's.
                        answer = await at.body(body, chunked=(1, 7, 4096) if turn % 2 else None)
                        assert_refused(answer, "invalid_json")
                    assert at.reached == []
                    assert [one.status for one in at.gw.raw_records[-len(forms) :]] == [400] * len(forms)
            await at.still_usable()

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

    async def test_C2_valid_json(self) -> None:
        async with stand() as at:
            for case in VALID:
                async with at.row(case.id):
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

    async def test_C2_either(self) -> None:
        async with stand() as at:
            for case in EITHER:
                async with at.row(case.id):
                    for body in json_cases.forms(case).values():
                        before = len(at.reached)
                        answer = await at.body(body)
                        assert answer.status == 200 or 400 <= answer.status < 500, answer.body
                        assert answer.complete
                        if len(at.reached) > before:
                            got = at.reached[-1]
                            assert (got.body_length, got.sha256) == (len(body), hashlib.sha256(body).hexdigest())
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

    async def test_C3_not_a_number(self) -> None:
        async with stand() as at:
            for place, value in product(PLACES, NOT_NUMBERS):
                async with at.row((place, value)):
                    body = (PLACES[place] % REQUEST.decode()).replace("@", value).encode()
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

    async def test_C5_refused_or_identical(self) -> None:
        async with stand() as at:
            for place, name in product(WHERE, ENCODINGS):
                async with at.row((place, name)):
                    body = WHERE[place].replace(b"@", ENCODINGS[name])
                    answer = await at.body(body)
                    assert not at.reached or is_utf_8(ENCODINGS[name]), "what is no UTF-8 is refused everywhere"
                    if at.reached:
                        assert [one.body for one in at.reached] == [body]
                    else:
                        assert_refused(answer, "invalid_json")
            await at.still_usable()

    async def test_C5_the_one_edit_of_a_stream_leaves_the_rest_alone(self) -> None:
        async with stand() as at:
            for name, octets in ENCODINGS.items():
                async with at.row(name):
                    body = b'{"stream":true,' + WHERE["content"].replace(b"@", octets)[1:]
                    answer = await at.body(body)
                    assert answer.complete
                    if at.reached:
                        assert at.reached[0].body == USAGE + body[1:]
                    else:
                        assert_refused(answer, "invalid_json")
            await at.still_usable()

    async def test_C5_in_the_model_itself(self) -> None:
        async with stand(any_model=True) as at:
            for name, octets in ENCODINGS.items():
                async with at.row(name):
                    body = b'{"model":"%b","messages":[{"role":"user","content":"x"}]}' % octets
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
