"""What one head comes to for one engine: the part of a request that is the same each time it is sent."""

from __future__ import annotations


class RequestStart:
    """Method, target (with what stands before an engine's paths) and fields of a request: whole lines, and at their end the
    name of ``x-request-id``, whose value comes next. ``upgrade``: it asks for a WebSocket, and a 101 is an answer to it.

    ``line`` is the HTTP/1 writer's, the request line, and ``block`` the HTTP/2 writer's, its pseudo-fields and its fields; each
    made with the first use.
    """

    __slots__ = ("block", "fields", "line", "method", "target", "upgrade")

    def __init__(self, method: bytes, target: bytes, fields: bytes, upgrade: bool = False) -> None:
        self.method = method
        self.target = target
        self.fields = fields
        self.upgrade = upgrade
        self.line = b""
        self.block: tuple[bytes, bytes] | None = None
