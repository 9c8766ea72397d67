"""What is known of a gateway's settings beside what they are: when they were last read well, and what waits for a restart.

Owns those two, and the way in which whoever runs the gateway has them read again. The gateway moves them; metrics and the
control listener ask.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import time
from typing import Any


class Loading:
    """See the head of this file. ``again`` reads them again, and gives what the operator is answered (status, document);
    None: an embedding program gives them itself."""

    __slots__ = ("again", "at", "pending")

    def __init__(self) -> None:
        self.at = time()  # Unix seconds
        self.pending: tuple[str, ...] = ()  # settings that are written otherwise than they hold
        self.again: Callable[[], Awaitable[tuple[int, Any]]] | None = None
