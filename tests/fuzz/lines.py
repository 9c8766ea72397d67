"""Lines of heads, from the usual to the absurd, that tests put together."""

from __future__ import annotations

REQUEST_LINES = (
    b"POST /v1/chat/completions HTTP/1.1", b"GET / HTTP/1.1", b"GET /a?b=c&d HTTP/1.0", b"OPTIONS * HTTP/1.1",
    b"HEAD /%41;x HTTP/1.1", b"GET http://h/x HTTP/1.1", b"PUT //x? HTTP/1.1", b"PATCH /a?b?c HTTP/1.1", b"DELETE /x HTTP/1.1",
    b"TRACE / HTTP/1.1", b"OPTIONS http://h HTTP/1.1", b"GET HTTPS://h:80?x HTTP/1.0", b"GET * HTTP/1.1",
    b"CONNECT a:1 HTTP/1.1",
    b"GET http://u@h/ HTTP/1.1", b"BREW / HTTP/1.1", b"GET /a#b HTTP/1.1", b"GET  / HTTP/1.1", b"GET / HTTP/2.0",
    b"get / HTTP/1.1",
)  # fmt: skip
REQUEST_FIELDS = (
    b"Host: a", b"host: b:80", b"Host:\t[::1]:8080", b"Content-Length: 5", b"content-length:\t005 ", b"Content-Length: 5,5",
    b"Transfer-Encoding: chunked", b"transfer-encoding:Chunked ", b"Transfer-Encoding: gzip, chunked", b"Connection: close",
    b"connection: Keep-Alive", b"Connection: keep-alive, x-a", b"Authorization: Bearer sk-abc", b"authorization: bEARER  x\t",
    b"Authorization: Basic eDp5", b"X-Api-Key: k", b"api-key: z", b"Cookie: a=b", b"Content-Type: application/json",
    b"content-type: text/plain; x=y", b"Content-Type:", b"Accept: */*", b"User-Agent: a (b) c/1", b"X-A: \xe9\t\xff", b"X-A:",
    b"X_B: 1", b"X_Api_Key: 1", b"Content_Length: 4", b"X-Forwarded_For: 1", b"Expect: 100-continue", b"X-Request-Id: r1",
    b"X-Forwarded-For: 1.2.3.4", b"X-Forwarded-Port: 1", b"Forwarded: for=x", b"Origin: https://o", b"TE: trailers",
    b"Keep-Alive: timeout=5", b"Upgrade: websocket", b"Sec-WebSocket-Key: x", b"sec-websocket-protocol: a, b",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"traceparent: cc-1-2-3",
    b"A : b", b" folded", b"nocolon", b": empty", b"A: b\rc", b"A: b\nc", b"A: \x00", b"A: \x7f",
    b"Connection: x-a, upgrade", b"Connection: traceparent,,", b"Close: 1", b"Content-Length: 9223372036854775807",
    b"Content-Length: 9223372036854775808", b"Transfer-Encoding: br\t", b"Transfer-Encoding: chunked\t ", b"Expect: tea",
    b"x_forwarded-for: a", b"sec_websocket-key: a", b"Te_: 1", b"trailer_: 1", b"content-length_: 1", b"n" * 300 + b": 1",
    b"Host: a:1:2", b"Upgrade: h2c",
)  # fmt: skip
RESPONSE_LINES = (
    b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.1 404 N\xf6t\tFound ",
    b"HTTP/1.1 503 X",
    b"HTTP/1.1 204 No Content", b"HTTP/1.1 100 Continue", b"HTTP/1.1 101 X", b"HTTP/1.1 599 ", b"HTTP/1.1 299 \t",
    b"HTTP/1.1 103 Early Hints", b"HTTP/1.0 101 X", b"HTTP/1.1 600 X", b"HTTP/1.1 2000", b"HTTP/1.1 200\t", b"HTTP/2.0 200 OK",
)  # fmt: skip
RESPONSE_FIELDS = (
    b"Content-Length: 5", b"content-length: 05\t", b"Content-Length: -1", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\t", b"Connection: close", b"Connection: keep-alive", b"Connection: Close, x-a",
    b"Content-Type: application/json", b"content-type: text/event-stream; charset=utf-8", b"Content-Type: application/x+json",
    b"Content-Type: \t; x", b"Date: now", b"Server: uvicorn", b"Keep-Alive: timeout=5, max=100", b'keep-alive: max="7" ',
    b"X-Request-Id: e", b"X-Accel-Buffering: no", b"Alt-Svc: h3", b"Set-Cookie: a=b", b"X_Request_Id: 1", b"X_B: 1",
    b"Transfer_Encoding: chunked", b"Upgrade: h2c", b"A : b", b" fold", b"A", b"A: \x00", b"Connection: upgrade",
    b"Connection: date, x_b", b"Close: 1", b"Transfer-Encoding: gzip\t", b"date: again",
    b"Content-Length: 99999999999999999999",
    b"Keep-Alive: timeout=1", b"alt_svc: h3", b"x_forwarded-for: 1", b"content_length: 4",
)  # fmt: skip
