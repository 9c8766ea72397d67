"""``lmstudio``: LM Studio's server ("REST API v0", in its documentation): whatever is on its disk it lists, and loads when
that is asked for. No path for its health, and no gauges."""

from __future__ import annotations

from typing import Final

from fastgw.upstream.kinds.kind import Kind
from fastgw.upstream.models import by_state

KIND: Final = Kind(
    "lmstudio",
    probe_paths=(b"/v1/models",),
    owned_by="organization_owner",
    asked=(b"/api/v0/models", "max_context_length"),
    more=(b"/api/v0/models", by_state),
    h2c=False,
)
