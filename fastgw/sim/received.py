"""What the engine received: one record per request, the last few of them kept.

Owns: the record of a request while it is read, answered and afterwards. Must never: hold more than ``KEPT_BYTES`` of a
body once the request is over (the SHA-256 and the length of the whole stay true).
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from fastgw.sim.heads import Head

if TYPE_CHECKING:
    from hashlib import _Hash

KEPT_BYTES: Final = 1024 * 1024 - 1


class Received:
    """One request as it came in, and what became of it.

    ``outcome`` is ``open`` until it is one of ``served`` (answered whole), ``cancelled`` (the client left first) or
    ``faulted`` (a fault ended it). ``on_connection`` counts from 1 per connection. Of HTTP/2:
    ``stream`` is its identifier, ``pseudo`` its pseudo-header fields, ``reset_code`` what the client has reset it with.
    """

    __slots__ = (
        "_hash",
        "_parts",
        "body",
        "body_length",
        "body_sent_bytes",
        "connection",
        "events",
        "finished_s",
        "head",
        "number",
        "on_connection",
        "outcome",
        "protocol",
        "pseudo",
        "received_s",
        "reset_code",
        "stream",
        "trailers",
    )

    def __init__(self, number: int, head: Head, connection: int, on_connection: int) -> None:
        self.number = number
        self.head = head
        self.connection = connection
        self.on_connection = on_connection
        self.body = b""
        self.body_length = 0
        self.protocol = "HTTP/" + head.version
        self.stream = 0
        self.pseudo: tuple[tuple[bytes, bytes], ...] = ()
        self.reset_code = ""
        self.trailers: tuple[tuple[bytes, bytes], ...] = ()
        self.received_s = time.time()
        self.finished_s = 0.0
        self.outcome = "open"
        self.events = 0
        self.body_sent_bytes = 0
        self._hash: _Hash | None = None
        self._parts: list[bytes] = []

    def __repr__(self) -> str:
        return f"<Received {self.number} {self.method} {self.target} body={self.body_length} {self.outcome}>"

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def target(self) -> str:
        return self.head.target

    @property
    def path(self) -> str:
        return self.head.path

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return self.head.headers

    @property
    def sha256(self) -> str:
        """Of the body received so far, hexadecimal."""
        return (self._hash or hashlib.sha256(self.body)).hexdigest()

    def header(self, name: str) -> str | None:
        """The last value of the field ``name``, in any case; None when there is none."""
        value = self.head.fields.get(name.lower().encode("latin-1"))
        return None if value is None else value.decode("latin-1")

    def add_body(self, data: bytes, keep_whole: bool) -> None:
        """Take in the next piece of the body."""
        self.body_length += len(data)
        if self._hash is None and not keep_whole and self.body_length > KEPT_BYTES:
            self.seal()
            self._hash = hashlib.sha256(self.body)
        if self._hash is None:
            self._parts.append(data)
        else:
            self._hash.update(data)

    def seal(self) -> None:
        """No more body comes (or none that is kept): ``body`` is what there is."""
        if self._parts:
            self.body = b"".join(self._parts) if len(self._parts) > 1 else self._parts[0]
            self._parts = []

    def finish(self, outcome: str) -> None:
        if self.outcome != "open":
            return
        self.seal()
        self.outcome = outcome
        self.finished_s = time.time()
        if len(self.body) > KEPT_BYTES:
            self._hash = hashlib.sha256(self.body)
            self.body = self.body[:KEPT_BYTES]

    def as_dict(self) -> dict[str, Any]:
        """As ``/debug/requests`` shows it."""
        whole = self.body_length <= KEPT_BYTES
        return {
            "number": self.number,
            "connection": self.connection,
            "on_connection": self.on_connection,
            "method": self.method,
            "target": self.target,
            "version": self.head.version,
            "protocol": self.protocol,
            "stream": self.stream,
            "reset_code": self.reset_code,
            "pseudo": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.pseudo],
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.headers],
            "trailers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.trailers],
            "body_length": self.body_length,
            "body_sha256": self.sha256,
            "body_base64": base64.b64encode(self.body).decode() if whole else None,
            "received_s": self.received_s,
            "finished_s": self.finished_s,
            "outcome": self.outcome,
            "events": self.events,
            "body_sent_bytes": self.body_sent_bytes,
        }


class Recorder:
    """The last ``limit`` requests, oldest first; ``/debug/*`` itself is never among them."""

    __slots__ = ("_kept",)

    def __init__(self, limit: int) -> None:
        self._kept: deque[Received] = deque(maxlen=limit)

    def add(self, request: Received) -> None:
        if not request.path.startswith("/debug/"):
            self._kept.append(request)

    def clear(self) -> None:
        self._kept.clear()

    def to(self, path: str) -> list[Received]:
        """Those for exactly this path."""
        return [request for request in self._kept if request.path == path]

    def __iter__(self) -> Iterator[Received]:
        return iter(list(self._kept))

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Received:
        return self._kept[index]
