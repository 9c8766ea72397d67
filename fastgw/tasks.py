"""Named, referenced, ended: the background tasks of one gateway.

Owns: every asyncio task outside the data plane. A task that fails is logged and does not take others along; ``close``
ends all of them and waits. The data plane itself runs on callbacks and makes no task per request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from fastgw.errors import described
from fastgw.stats import EventLog


class Tasks:
    """The background tasks of one gateway."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._live: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._live)

    def spawn(self, name: str, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run ``coro`` until it ends or :meth:`close`; refuses after ``close``."""
        if self._closed:
            coro.close()
            raise RuntimeError(f"cannot start task {name!r}: the gateway has stopped")
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self._live.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._live.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("background task failed", task=task.get_name(), error=described(error))

    async def close(self) -> None:
        """Cancel what is left and wait until it has ended."""
        self._closed = True
        live = [task for task in self._live if task is not asyncio.current_task()]
        for task in live:
            task.cancel()
        if live:
            await asyncio.gather(*live, return_exceptions=True)
