"""Many runners in one process: ``python -m tests.soak.crowd_of_runners URL COUNT ENGINE_PORT TOKEN``.

Each names an address of its own in 127.0.0.0/8. They join as fast as they are taken, and report once a second; ``leave N`` on
standard input has N of them leave in a second, and as many others come; its end has all leave. Says ``joined`` when all have.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

from tests.support.runners import heartbeat, register
from tests.support.ws import TEXT, Socket, said


def address(number: int) -> str:
    return f"127.{1 + number // 60000}.{number // 250 % 240}.{1 + number % 250}"


class Crowd:
    def __init__(self, url: str, count: int, port: int, token: str) -> None:
        self.url, self.count, self.port, self.token = url, count, port, token
        self.there: dict[int, Socket] = {}
        self.rate = 0
        self.reports = said(heartbeat("fleet", "another", metrics={"requests_running": 3, "requests_waiting": 1}))

    async def join(self, number: int) -> None:
        at = f"http://{address(number)}:{self.port}"
        words = register("fleet", "another", id=f"runner-{number}", url=at, auth_token=self.token)
        one = await Socket.opened(self.url, behind=said(words))
        opcode, payload = await one.frame()
        assert opcode == TEXT, (opcode, payload)
        assert b"register_ack" in payload, payload
        self.there[number] = one

    async def report(self) -> None:
        """Each once a second, spread over it."""
        while True:
            numbers = list(self.there)
            begun = asyncio.get_running_loop().time()
            for at, number in enumerate(numbers):
                one = self.there.get(number)
                if one is not None:
                    one.writer.write(self.reports)
                if at % 10 == 9:
                    due = begun + at / max(1, len(numbers))
                    await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            await asyncio.sleep(max(0.0, begun + 1.0 - asyncio.get_running_loop().time()))

    async def churn(self) -> None:
        number = 0
        while True:
            if not self.rate:
                await asyncio.sleep(0.05)
                continue
            number = (number + 1) % self.count
            one = self.there.pop(number, None)
            if one is not None:
                one.close(reset=True)
                self.count += 1  # (another takes its place: it is not the same that comes again)
                with suppress(AssertionError, OSError, TimeoutError):
                    await self.join(self.count)
            await asyncio.sleep(1.0 / self.rate)


async def main(url: str, count: int, port: int, token: str) -> None:
    crowd = Crowd(url, count, port, token)
    for first in range(0, count, 20):
        await asyncio.gather(*(crowd.join(number) for number in range(first, min(count, first + 20))))
    tasks = [asyncio.create_task(crowd.report()), asyncio.create_task(crowd.churn())]
    print("joined", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        crowd.rate = int(line.split()[1]) if line.startswith("leave") else 0
    for task in tasks:
        task.cancel()
    for one in crowd.there.values():
        one.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
