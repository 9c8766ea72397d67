"""``ollama``: Ollama, which has no path for its health, and its own for its models; what is loaded stands at a third, and what
a model was trained for is asked of one at a time ("API", in its documentation). A name without a tag means ``:latest``."""

from __future__ import annotations

from typing import Final

from fastgw.upstream.kinds.kind import Kind
from fastgw.upstream.models import by_running

KIND: Final = Kind(
    "ollama",
    probe_paths=(b"/api/tags", b"/v1/models"),
    models_path=b"/api/tags",
    owned_by="library",
    asked=(b"/api/version", "version"),
    more=(b"/api/ps", by_running),
    show_path=b"/api/show",
    default_tag=":latest",
    h2c=False,
)
