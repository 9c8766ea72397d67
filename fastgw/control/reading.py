"""The body of a call to the control listener: whole, in time, and no larger than it may be."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from fastgw.errors import GatewayError
from fastgw.protocol.media import in_utf_8


async def read_body(request: web.BaseRequest, most: int, seconds: float) -> bytes:
    """The whole body; 408 when it is slow, 413 when it is large, 415 when it is compressed, or not in UTF-8."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise GatewayError("unsupported_media_type", "A compressed body is not taken here.")
    if not in_utf_8(request.headers.get("Content-Type", "").encode("utf-8", "surrogateescape")):
        raise GatewayError("unsupported_media_type", "A body in another charset than UTF-8 is not taken here.")
    if (request.content_length or 0) > most:
        raise GatewayError("body_too_large", f"At most {most} bytes are taken here.")
    expects = request.headers.get("Expect", "")
    if expects and expects.lower() != "100-continue":
        raise GatewayError("expectation_failed")
    read = bytearray()
    try:
        async with asyncio.timeout(seconds):
            if expects and request.version >= (1, 1):
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0  # the answer has not begun
            while piece := await request.content.readany():
                read += piece
                if len(read) > most:
                    raise GatewayError("body_too_large", f"At most {most} bytes are taken here.")
    except TimeoutError as error:
        raise GatewayError("request_timeout") from error
    except (web.RequestPayloadError, HttpProcessingError) as error:
        raise GatewayError("bad_request") from error
    return bytes(read)
