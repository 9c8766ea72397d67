"""Empty bodies, wrong content types and broken forms over real sockets: C9."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.bodies import CHAT, assert_refused, multipart, rss_kb, stand, upload
from tests.support.client import chat_body, request

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
