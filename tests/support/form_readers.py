"""What the frameworks of engines make of a form: starlette's ``form()`` (over python-multipart) and aiohttp's ``post()``.

vLLM and SGLang read with the first. Both are asked as their handlers would ask them, over a body that is there whole.
"""

from __future__ import annotations

import warnings
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from aiohttp import StreamReader, web
from aiohttp.http import HttpVersion11, RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from starlette.requests import Request
from yarl import URL


class Reading(NamedTuple):
    """The names of the fields in their order, and what those named ``model`` hold; or why there are none."""

    names: tuple[str, ...]
    models: tuple[Any, ...]
    refused: str = ""


def refusal(error: Exception) -> Reading:
    return Reading((), (), f"{type(error).__name__}: {error}")


def _driven(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of what has nothing to wait for; a loop for each would be most of the time."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    work.close()
    raise AssertionError("it waits for something")


def _reading(pairs: list[tuple[str, Any]]) -> Reading:
    found = Reading(tuple(name for name, _ in pairs), tuple(value for name, value in pairs if name == "model"))
    for _, value in pairs:
        if hasattr(value, "file"):
            value.file.close()
    return found


def starlette(content_type: bytes, body: bytes) -> Reading:
    """As FastAPI reads it."""
    message = {"type": "http.request", "body": body, "more_body": False}

    async def receive() -> dict[str, Any]:
        return message

    request = Request({"type": "http", "method": "POST", "headers": [(b"content-type", content_type)]}, receive)

    async def form() -> Any:
        return await request.form()

    try:
        return _reading(_driven(form()).multi_items())
    except AssertionError:
        raise
    except Exception as error:
        return refusal(error)


# What stands in for a connection and its loop: nobody waits here. No mock, which would remember each call for ever.
_PEER: Final[Any] = SimpleNamespace(
    max_field_size=8190, max_line_length=8190, max_headers=128, ssl_context=None, peername=None, sockname=None, transport=None,
    _reading_paused=False, pause_reading=lambda: None, resume_reading=lambda **_: None,
)  # fmt: skip
_HEAD: Final = RawRequestMessage(
    "POST", "/", HttpVersion11, CIMultiDictProxy(CIMultiDict()), (), False, None, False, False, URL("/")
)


def aiohttp(content_type: bytes, body: bytes) -> Reading:
    """As a handler of aiohttp's server reads it."""
    payload = StreamReader(_PEER, 1 << 20, loop=_PEER)
    payload.feed_data(body)
    payload.feed_eof()
    headers = CIMultiDict({"Content-Type": content_type.decode("utf-8", "surrogateescape")})
    head = _HEAD._replace(headers=CIMultiDictProxy(headers))
    request = web.BaseRequest(head, payload, _PEER, _PEER, _PEER, _PEER, client_max_size=1 << 30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where it gives up
        try:
            return _reading(list(_driven(request.post()).items()))
        except Exception as error:
            return refusal(error)


READERS = {"starlette": starlette, "aiohttp": aiohttp}
