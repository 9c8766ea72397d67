"""A client's chunked body: what of it is refused, in words."""

from __future__ import annotations

from fastgw.accel.chunks import FramingError
from fastgw.errors import GatewayError
from fastgw.protocol.body import ChunkedSource
from fastgw.protocol.headers import forbidden_trailer


class RequestChunks(ChunkedSource):
    """Trailers are dropped; one that could change framing, routing or identity is refused."""

    __slots__ = ("_judged",)

    def __init__(self) -> None:
        super().__init__()
        self._judged = 0  # of the trailers that came

    def feed(self, data: bytes) -> bytes:
        """The payload in ``data``.

        :raises GatewayError: ``bad_request``, for malformed chunks and forbidden trailers.
        """
        try:
            payload = ChunkedSource.feed(self, data)
        except FramingError as error:
            raise _refusal(str(error)) from None
        trailers = self._scanner.trailers
        if len(trailers) > self._judged:
            for name in trailers[self._judged :]:
                if forbidden_trailer(name):
                    raise _refusal("forbidden trailer field")
            self._judged = len(trailers)
        return payload


def _refusal(detail: str) -> GatewayError:
    return GatewayError("bad_request", "The chunked body is malformed.", detail=detail)
