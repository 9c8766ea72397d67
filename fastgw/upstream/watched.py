"""Whether a configuration has somebody who wants to know what calls tell of engines (``watch``).

Owns: the list of policies that go by it. Asked at each start, so that a gateway which has none imports nothing for it.
"""

from __future__ import annotations

from typing import Final

from fastgw.config import Config

WATCHED: Final = frozenset(
    ("least_loaded", "ewma_latency", "capability", "consistent_hash", "session", "token_load", "prefix_aware")
)


def holds_back(config: Config) -> bool:
    """Whether engines are held back (``restraint``)."""
    return bool(
        config.slow_start_s or config.outlier_errors or config.outlier_error_percent or config.outlier_ttft_factor
    )


def watches(config: Config) -> bool:
    """Whether calls tell of engines at all."""
    used: set[str] = {config.policy, *[route.policy for route in config.routes]}
    if config.policy_header:
        used.update(config.policy_choices)
    return bool(used & WATCHED) or holds_back(config)
