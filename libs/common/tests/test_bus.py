"""What only the bus on NATS has to do: tokens, restarts, messages too large."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shoal_common.bus import NatsBus
from shoal_common.errors import RequestTooLarge, Unavailable
from shoal_common.testing import start_nats


@pytest.mark.parametrize("token", ["", "wrong"])
async def test_missing_or_wrong_token_is_refused(tmp_path: Path, token: str) -> None:
    with start_nats(tmp_path, "tok-right") as nats:
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable, match="token") as caught:
                await NatsBus.connect(nats.url, token=token)
    assert "tok-right" not in str(caught.value)


async def test_connect_waits_for_a_server_that_starts_late(tmp_path: Path) -> None:
    with start_nats(tmp_path, "t") as nats:
        url = nats.url
        nats.stop()
        connecting = asyncio.create_task(NatsBus.connect(url, token="t"))
        await asyncio.sleep(0)
        nats.start()
        bus = await asyncio.wait_for(connecting, 5)
        await bus.close()


async def test_subscriptions_live_on_when_nats_is_killed_and_comes_back(tmp_path: Path) -> None:
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def keep(subject: str, payload: bytes) -> None:
        received.put_nowait(payload)

    with start_nats(tmp_path, "t") as nats:
        listener = await NatsBus.connect(nats.url, token="t", name="listener")
        sender = await NatsBus.connect(nats.url, token="t", name="sender")
        try:
            await listener.subscribe("shoal.>", keep)
            await sender.publish("shoal.a", b"before")
            assert await asyncio.wait_for(received.get(), 5) == b"before"
            nats.kill()
            nats.start()
            # Either client may be back first, so the fact is repeated, as beats are.
            async with asyncio.timeout(15):
                while True:
                    await sender.publish("shoal.a", b"after")
                    try:
                        assert await asyncio.wait_for(received.get(), 0.1) == b"after"
                        break
                    except TimeoutError:
                        continue
        finally:
            await listener.close()
            await sender.close()


async def test_message_too_large_says_so(tmp_path: Path) -> None:
    with start_nats(tmp_path, "t") as nats:
        bus = await NatsBus.connect(nats.url, token="t")
        try:
            with pytest.raises(RequestTooLarge, match="2000000 bytes"):
                await bus.publish("big", bytes(2_000_000))
        finally:
            await bus.close()
