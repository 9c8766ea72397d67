"""``ollama``: Ollama, which has no path for its health, and its own for its models."""

from __future__ import annotations

from typing import Final

from fastgw.upstream.kinds.kind import Kind

KIND: Final = Kind("ollama", probe_paths=(b"/api/tags", b"/v1/models"), models_path=b"/api/tags", h2c=False)
