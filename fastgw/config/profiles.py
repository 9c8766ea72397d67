"""What the users of another gateway find set under ``compat``, unless they set it otherwise.

Owns: the defaults of each compatibility profile; how its errors differ stands in ``fastgw/errors.py``. A test holds that all
of them are settings.
"""

from __future__ import annotations

from typing import Final

from fastgw.config.names import EngineKind, Profile

PROFILE_DEFAULTS: Final[dict[Profile, dict[str, object]]] = {
    "": {},
    "minisgl": {
        "host": "127.0.0.1", "port": 3030, "policy": "ordered", "connect_timeout_s": 3.0, "first_byte_timeout_s": 3.0,
        "allow_anonymous": True,
        # (Each worker in its turn, whatever has become of the one before: as many as are asked for one request at all.)
        "max_retries": 15, "retry_budget_percent": 1000, "quarantine_after": 0,
    },
    "llm-stack": {"host": "127.0.0.1", "port": 8080, "metrics_public": True},
    "rakka": {"host": "127.0.0.1", "port": 8080, "allow_anonymous": True},
    "simple-ai": {"host": "127.0.0.1", "port": 8080},
    "openai-llm-gateway": {"host": "0.0.0.0", "port": 8080, "allow_anonymous": True},  # noqa: S104 - its page promises it
}  # fmt: skip
PROFILE_ENGINES: Final[dict[Profile, tuple[tuple[str, EngineKind], ...]]] = {
    "openai-llm-gateway": (("http://localhost:11434", "ollama"),),
}
"""URL and kind of the engines that a profile has where nobody names any."""
