"""Asks the router at start whether it is there. A gateway without one serves all the same: it
becomes ready when the router does."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, suppress

from shoal_common.driving import GrpcRouter
from shoal_common.errors import ShoalError
from shoal_gateway.errors import StartupProbeFailed
from shoal_gateway.settings import Settings

log = logging.getLogger(__name__)


async def probe(settings: Settings, router: GrpcRouter, stack: AsyncExitStack) -> None:
    """Ask, if that is wished: strictly before the gateway listens, or else beside it.

    Raises StartupProbeFailed with `strict_startup`.
    """
    if settings.strict_startup:
        if not await _answers(settings, router):
            raise StartupProbeFailed(settings.router_address, settings.probe_timeout_s)
    elif settings.probe_on_startup:
        task = asyncio.create_task(_answers(settings, router))

        async def close() -> None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        stack.push_async_callback(close)


async def _answers(settings: Settings, router: GrpcRouter) -> bool:
    try:
        async with asyncio.timeout(settings.probe_timeout_s):
            models = await router.list_models()
    except (ShoalError, TimeoutError) as err:
        reason = err.reason if isinstance(err, ShoalError) else "TIMEOUT"
        fields = {"address": settings.router_address, "reason": reason}
        log.warning("router did not answer at start", extra=fields)
        return False
    log.info("router answered at start", extra={"model_count": len(models)})
    return True
