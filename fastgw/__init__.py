"""fastgw: a streaming gateway in front of LLM inference engines.

``Gateway``, ``Config``, ``EngineConfig``, ``RouteConfig`` and ``AccessRecord`` are what an embedding program needs; they are
imported when first used, so that ``fastgw version`` does not pay for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastgw import twins

if TYPE_CHECKING:
    from fastgw.app import AccessRecord, Gateway, StartError
    from fastgw.config import Config, ConfigErrors, EngineConfig, RouteConfig

__version__ = "0.1.0"

__all__ = ["AccessRecord", "Config", "ConfigErrors", "EngineConfig", "Gateway", "RouteConfig", "StartError", "__version__"]


# Before anything else of the package is imported.
twins.select_at_import()


def __getattr__(name: str) -> object:
    if name in ("AccessRecord", "Gateway", "StartError"):
        from fastgw import app

        return getattr(app, name)
    if name in ("Config", "ConfigErrors", "EngineConfig", "RouteConfig"):
        from fastgw import config

        return getattr(config, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
