"""Caps of requests under way: of an engine, a key, a route, the whole gateway; each until a stream's last byte."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.config import RouteConfig
from tests.conversations.test_queue import answered, begun, finish, held, order
from tests.e2e.gate import tagged
from tests.support.byhand.engine import HandStream
from tests.support.conversation import KEY, conversation
from tests.support.requests import chat
from tests.support.scripts import DONE, EVENT, LAST_CHUNK, SSE_HEAD, chunk

