"""Bad models over real sockets: C7."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.e2e.bodies import assert_loggable, assert_refused, multipart, rss_kb, stand, upload
from tests.support import naughty
from tests.support.client import RawResponse, chat_body, request


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


class TestC7:
    """A bad ``model`` is E400 or E404 K ∅, and breaks no header, no log line and no label."""

    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
    async def test_C7_wrong_type_or_size(self, path: str) -> None:
        async with stand(any_model=True) as at:
            for name, model in WRONG_MODELS.items():
                async with at.row(name):
                    for body in (
                        b'{"model":%b,"messages":[{"role":"user","content":"x"}]}',
                        b'{"input":"x","model" : %b }',
                        b'{"stream":true,"model":%b}',
                    ):
                        answer = await at.body(body % model, path=path)
                        assert_refused(answer, "invalid_parameter", "missing_model")
                        assert answer.error["param"] == "model"
                        assert_not_injected(answer)
                    assert at.reached == []
            assert_loggable(at.gw)
            await at.still_usable()

    async def test_C7_naughty_names_that_nobody_serves(self) -> None:
        async with stand() as at:
            for name in naughty.STRINGS:
                async with at.row(name):
                    for spelling in naughty.spellings(name):
                        for template in (b'{"model":%b,"messages":[]}', b'{"messages":[],"stream":true,"model":%b}'):
                            answer = await at.body(template % spelling)
                            assert_refused(
                                answer, "invalid_parameter", "model_not_found", "missing_model", status=answer.status
                            )
                            assert answer.status in (400, 404)
                            assert answer.error["param"] == "model"
                            assert_not_injected(answer)
                    answer = await at.ask(request("GET", "/v1/models/" + quote(name[:2000], safe="")))
                    assert answer.status == 404
                    assert_not_injected(answer)
                    assert at.reached == []
            assert_loggable(at.gw)
            await at.still_usable()

    async def test_C7_naughty_names_for_an_engine_that_takes_any(self) -> None:
        async with stand(any_model=True) as at:
            for name in naughty.STRINGS:
                async with at.row(name):
                    for spelling in naughty.spellings(name):
                        body = b'{"model":%b,"messages":[{"role":"user","content":"x"}]}' % spelling
                        before = len(at.reached)
                        answer = await at.body(body)
                        if len(at.reached) > before:
                            assert answer.status == 200
                            assert at.reached[-1].body == body
                            assert at.reached[-1].header("x-injected") is None
                            assert at.gw.raw_records[-1].model == name
                        else:
                            assert_refused(answer, "invalid_parameter")
                        assert_not_injected(answer)
            assert_loggable(at.gw)
            await at.still_usable()

    async def test_C7_naughty_names_in_a_form(self) -> None:
        async with stand() as at:
            for name in naughty.STRINGS:
                async with at.row(name):
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
