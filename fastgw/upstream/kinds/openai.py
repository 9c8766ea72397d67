"""``openai``: OpenAI's own servers, and what behaves like them. Their models that reason take ``max_completion_tokens`` of a
chat alone, and both at once are refused (API reference, "Create chat completion")."""

from __future__ import annotations

from typing import Final

from fastgw.upstream.kinds.kind import Kind

KIND: Final = Kind("openai", knows_completion_tokens=True, refuses_max_tokens=True)
