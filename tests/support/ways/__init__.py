"""The ways that a request can take: its client speaks HTTP/1.1 or HTTP/2, so does its engine, and each of them with TLS or not.

``way`` has the sixteen of them, and a gateway on each; ``h1`` and ``h2`` are the two kinds of ends, with the same names. An
engine's script says what it does (a head, data, an end, none), never in which bytes; a client asks with the bytes of
``requests.py``, whichever protocol they go in, and sees a ``RawResponse``.
"""
