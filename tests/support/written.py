"""What a log has written, read at its other end."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fastgw.observe.logs import LogWriter


@contextmanager
def read_all(json_lines: bool, *, flood_rate: int = 0) -> Iterator[tuple[LogWriter, list[bytes]]]:
    """A log as ``fastgw serve`` has it, and what was written to it."""
    reader, writer = os.pipe()
    pieces: list[bytes] = []

    def drain() -> None:
        while data := os.read(reader, 65536):
            pieces.append(data)

    thread = threading.Thread(target=drain)
    thread.start()
    log = LogWriter(writer, level="debug", json=json_lines, flood_rate=flood_rate)
    try:
        yield log, pieces
    finally:
        log.close()
        os.close(writer)
        thread.join()
        os.close(reader)
