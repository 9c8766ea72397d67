"""A budget's lines reach the receiver of the page, which knows whose they are."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from fastgw.config.paying import PriceConfig
from tests.e2e.metered import ask, metered, say
from tests.support.ports import closed_port

pytestmark = pytest.mark.once
PAGE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()


async def test_the_receiver_of_the_page_takes_what_is_signed_with_its_secret_alone() -> None:
    source = re.findall(r"^```python\n(import hashlib.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[0]
    secret = re.findall(r'^budget_webhook_secret = "(.*)"', PAGE, re.MULTILINE)[0]
    port = closed_port()
    assert secret in source
    code = source.replace("9000", str(port))
    receiver = await asyncio.create_subprocess_exec(sys.executable, "-uc", code, stdout=asyncio.subprocess.PIPE)
    try:
        hook = {"budget_webhook_url": f"http://127.0.0.1:{port}/budgets", "budget_webhook_secret": secret}
        prices = [PriceConfig(model="sim", input="0", output="1")]
        async with metered(key_budget="0.00006", prices=prices, **hook) as (gw, _, client):
            assert (await ask(client, say(60))).status == 200
            await gw.until("the event is taken", lambda: gw.stats.webhooks_taken == 1)
            assert receiver.stdout is not None
            line = (await asyncio.wait_for(receiver.stdout.readline(), 5)).decode()
            assert '"percent":100' in line
        async with metered(key_budget="0.00006", prices=prices, **hook | {"budget_webhook_secret": "of-somebody-else"}) as (
            gw, _, client,
        ):  # fmt: skip
            assert (await ask(client, say(60))).status == 200
            await gw.until("the event is refused", lambda: gw.stats.webhooks_lost == 1)
    finally:
        receiver.kill()
        await receiver.wait()
