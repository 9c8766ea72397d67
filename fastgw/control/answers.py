"""How the control listener's answers look as HTTP: a page's own, and those to whoever is refused.

Must never: say in a refusal what the gateway is made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Final

import msgspec
from aiohttp import web

from fastgw.control.call import AdminAnswer
from fastgw.control.routes import Route, allowed
from fastgw.errors import ErrorKind, GatewayError, body

JSON: Final = "application/json"
CHALLENGE: Final = 'Bearer realm="fastgw admin"'


def rendered(kind: ErrorKind, message: str | None = None, param: str | None = None) -> web.Response:
    """An error of this kind."""
    response = web.Response(status=kind.status, body=body(kind, message, param), headers={"Content-Type": JSON})
    if kind.close:
        response.force_close()
    return response


def refused(error: GatewayError) -> web.StreamResponse:
    """What the caller is told, with the fields that go with it."""
    response = rendered(error.kind, error.message, error.param)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, ceil(error.retry_after_s)))
    if error.allow is not None:
        response.headers["Allow"] = error.allow
    if error.kind.status == 401:
        response.headers["WWW-Authenticate"] = CHALLENGE
    return response


def nowhere(methods: Mapping[str, Route], paths: Sequence[str] = ()) -> GatewayError:
    """There is nothing at this path, or not by this method; ``paths``: where there is, for whoever may know."""
    if methods:
        return GatewayError("method_not_allowed", allow=allowed(methods))
    return GatewayError("not_found", f"There is nothing here. There is: {', '.join(paths)}" if paths else None)


def answered(answer: AdminAnswer) -> web.StreamResponse:
    """A page's answer; of pieces only its head."""
    response: web.StreamResponse
    if answer.pieces is not None:
        response = web.StreamResponse(status=answer.status)
        response.content_type = answer.media_type
    elif answer.document is None:
        response = web.Response(status=answer.status)
    elif isinstance(answer.document, bytes):
        response = web.Response(status=answer.status, body=answer.document, headers={"Content-Type": answer.media_type})
    else:
        document = msgspec.json.encode(answer.document)
        response = web.Response(status=answer.status, body=document, headers={"Content-Type": answer.media_type})
    response.headers.update(answer.headers)
    return response
