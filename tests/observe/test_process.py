"""What the kernel says of this very process."""

from __future__ import annotations

import os
from time import time
from typing import Any

import pytest

from fastgw.observe import process


def told() -> dict[str, Any]:
    return {one.name: value for one in process.families() for _, value in one.samples}


def test_it_is_this_process() -> None:
    found = told()
    assert 1e7 < found["process_resident_memory_bytes"] < found["process_virtual_memory_bytes"]
    assert 0 < found["process_cpu_seconds_total"] < 1e6
    assert time() - 86400 < found["process_start_time_seconds"] <= time()
    if "process_open_fds" in found:
        files = [open(os.devnull) for _ in range(50)]  # noqa: SIM115 - to be counted
        assert told()["process_open_fds"] == found["process_open_fds"] + 50
        for file in files:
            file.close()


def test_what_a_kernel_does_not_say_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(process, "open", nothing, raising=False)
    monkeypatch.setattr(process.os, "stat", nothing)
    assert told().keys() == {"process_cpu_seconds_total", "process_max_fds"}
