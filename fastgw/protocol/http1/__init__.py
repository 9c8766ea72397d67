"""HTTP/1.1 and 1.0 without input or output: heads, bodies, and the bytes we write."""

from __future__ import annotations

from fastgw.protocol.http1.client import ResponseReader, parse_response
from fastgw.protocol.http1.framing import RequestChunks
from fastgw.protocol.http1.server import RequestReader, parse_request

__all__ = ["RequestChunks", "RequestReader", "ResponseReader", "parse_request", "parse_response"]
