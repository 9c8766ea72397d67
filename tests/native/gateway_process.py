"""A gateway in a process of its own that counts what it allocates and copies; a test asks it over its standard input.

    begin    start counting
    end      one line of JSON: {"peak_bytes": N, "copies": N, ...}; the peak is above what was allocated at ``begin``

Prints its URL first. Ends with its standard input.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import tracemalloc

import uvloop

from fastgw import Config, EngineConfig, Gateway
from fastgw.accel import sockets


async def main(engine: str) -> None:
    loop = asyncio.get_running_loop()
    commands: asyncio.Queue[bytes] = asyncio.Queue()
    # By the bare call: a buffered reader's own memory would be counted.
    loop.add_reader(0, lambda: commands.put_nowait(os.read(0, 100)))
    engines = [EngineConfig(url=engine)]
    config = Config(engines=engines, port=0, inject_usage=False, health_interval_s=600.0, drain_timeout_s=0.1)
    async with Gateway(config) as gateway:
        print(gateway.url, flush=True)
        base = 0
        while command := await commands.get():
            if command == b"begin\n":
                gc.collect()
                gc.disable()
                tracemalloc.start(1)
                sockets.reset_counters()
                await asyncio.sleep(0.02)  # this very task's own
                tracemalloc.reset_peak()
                base = tracemalloc.get_traced_memory()[0]
            else:
                peak = tracemalloc.get_traced_memory()[1] - base
                tracemalloc.stop()
                gc.enable()
                print(json.dumps({"peak_bytes": peak, **sockets.counters()}), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
