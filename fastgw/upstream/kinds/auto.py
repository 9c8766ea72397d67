"""``auto``: an engine of which nobody has said what it is. Its list of models may tell; until then, and where it does not, it
is asked everything that any kind answers."""

from __future__ import annotations

from typing import Final

from fastgw.upstream.kinds.kind import Kind

KIND: Final = Kind(
    "auto",
    probe_paths=(b"/health", b"/healthz", b"/v1/models", b"/api/tags"),
    owner="fastgw",
    rank_header=b"X-data-parallel-rank",
)
