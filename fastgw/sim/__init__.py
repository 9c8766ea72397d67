"""An engine simulator: an OpenAI-shaped server with a scheduler, a clock and every fault a gateway must survive.

``Simulator`` behaves like an engine; ``ScriptedEngine`` sends exactly the bytes a test tells it to. Neither uses any other
part of fastgw, so what they find out about it is not its own opinion.
"""

from __future__ import annotations

from fastgw.sim.config import SimConfig
from fastgw.sim.faults import FaultError
from fastgw.sim.received import Received
from fastgw.sim.scripted import RawRequest, ScriptedConnection, ScriptedEngine
from fastgw.sim.server import Simulator

__all__ = ["FaultError", "RawRequest", "Received", "ScriptedConnection", "ScriptedEngine", "SimConfig", "Simulator"]
