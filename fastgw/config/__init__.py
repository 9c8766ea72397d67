"""Configuration: read once, checked whole, frozen."""

from __future__ import annotations

from fastgw.config.address import EngineAddress, parse_engine_url
from fastgw.config.entries import EngineConfig, RouteConfig
from fastgw.config.load import Loaded, load, load_with_origins, read_one, read_some
from fastgw.config.problems import ConfigError, ConfigErrors
from fastgw.config.settings import Config

__all__ = [
    "Config",
    "ConfigError",
    "ConfigErrors",
    "EngineAddress",
    "EngineConfig",
    "Loaded",
    "RouteConfig",
    "load",
    "load_with_origins",
    "parse_engine_url",
    "read_one",
    "read_some",
]
