"""What a request body may be: its size before it is read, its type, its characters and its coding."""

from __future__ import annotations

from fastgw.config import Config
from fastgw.errors import GatewayError
from fastgw.exchange.endpoints import JSON
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter
from fastgw.protocol.media import in_utf_8, is_json


class BodyLimit(Filter):
    """Refuses by ``Content-Length`` before a byte of the body is read; bodies without one are counted as they come."""

    __slots__ = ("_body_bytes", "_upload_bytes")
    name = "bodylimit"

    def __init__(self, body_bytes: int, upload_bytes: int) -> None:
        self._body_bytes = body_bytes
        self._upload_bytes = upload_bytes

    @classmethod
    def from_config(cls, config: Config) -> BodyLimit:
        return cls(config.max_body_bytes, config.max_upload_bytes)

    def after(self, before: Filter, config: Config) -> Filter:
        return self

    def on_head(self, exchange: Exchange) -> None:
        head = exchange.head
        length = head.content_length
        mode = exchange.endpoint.mode
        if mode is JSON:
            if length > self._body_bytes:
                raise GatewayError("body_too_large", detail=f"content-length {length}")
            content_type = head.content_type
            if content_type is not None and content_type != b"application/json":
                self._check_type(content_type)
            if length < 0 and not head.chunked:
                raise GatewayError("length_required")
        elif length > (self._body_bytes if exchange.is_json() else self._upload_bytes):
            raise GatewayError("body_too_large", detail=f"content-length {length}")
        elif exchange.is_json():
            content_type = head.content_type
            assert content_type is not None
            self._check_type(content_type)

    @staticmethod
    def _check_type(content_type: bytes) -> None:
        if not is_json(content_type):
            raise GatewayError("unsupported_media_type", "Send the body as `application/json`.")
        if not in_utf_8(content_type):
            raise GatewayError("unsupported_media_type", "Send the body in UTF-8.")
