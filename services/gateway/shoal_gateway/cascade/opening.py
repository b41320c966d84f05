"""The cascade from settings: what must fit together, and what is opened and closed with it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack

from shoal_common.clock import Clock
from shoal_common.errors import ShoalError
from shoal_common.host import host_id
from shoal_common.settings import ConfigurationError
from shoal_gateway.access.metering import TokenMeter
from shoal_gateway.answers import Backend
from shoal_gateway.cascade.answer import CascadeParts
from shoal_gateway.cascade.audit import Audits
from shoal_gateway.cascade.backend import CascadeBackend, CascadeRules, Heavyweights
from shoal_gateway.cascade.background import Background
from shoal_gateway.cascade.eligibility import is_here
from shoal_gateway.cascade.metrics import recorder_for
from shoal_gateway.cascade.watch import DrafterWatch
from shoal_gateway.drafter import Drafter
from shoal_gateway.local import LocalBackend
from shoal_gateway.metrics import Metrics
from shoal_gateway.models import ModelDirectory
from shoal_gateway.settings import Settings

log = logging.getLogger(__name__)

# Answers on their way into the cache.
_REMEMBERING_MAX = 64


def check_settings(settings: Settings) -> None:
    """Raises ConfigurationError for what can never work."""
    if not (settings.drafter_address and settings.cascade_model):
        return
    problems = []
    if settings.heavyweight_timeout_s >= settings.idle_timeout_s:
        problems.append(
            f"heavyweight_timeout_s is {settings.heavyweight_timeout_s:g} s and idle_timeout_s "
            f"{settings.idle_timeout_s:g} s: lower the first or raise the second, so that a silent "
            "heavyweight is given up before the stream is"
        )
    if settings.cascade_model == settings.heavyweight_model:
        problems.append(
            f"cascade_model and heavyweight_model are both '{settings.cascade_model}': the cascade "
            "needs a name of its own"
        )
    if not settings.heavyweight_model:
        problems.append("heavyweight_model is empty: name the model that takes over")
    if settings.cascade_model in settings.cloud_models:
        problems.append(
            f"cascade_model '{settings.cascade_model}' is one of cloud_models: rename one of them"
        )
    if problems:
        raise ConfigurationError(problems)


async def open_cascade(
    settings: Settings,
    drafter: Drafter | None,
    local: LocalBackend,
    backends: Sequence[Backend],
    metrics: Metrics,
    meter: TokenMeter,
    clock: Clock,
    stack: AsyncExitStack,
) -> CascadeBackend | None:
    """None where there is no cascade. `backends` are those that answer for the heavyweight, the
    last of them whoever refuses.

    Raises ConfigurationError for what can never work, as far as settings and drafter show it.
    """
    check_settings(settings)
    if drafter is None or not settings.cascade_model:
        return None
    recorder = recorder_for(metrics.registry, settings.metrics_enabled)
    watch = DrafterWatch(drafter, clock, settings.heavyweight_timeout_s)
    stack.push_async_callback(watch.close)
    background = Background(_REMEMBERING_MAX)
    stack.push_async_callback(background.drain, settings.drain_timeout_s)
    heavyweights = Heavyweights(settings.heavyweight_model, backends)
    audits = Audits(settings.cascade_audit_share, drafter, heavyweights.open, recorder)
    stack.push_async_callback(audits.close)
    parts = CascadeParts(
        drafter=drafter,
        watch=watch,
        completer=local.completer,
        recorder=recorder,
        background=background,
        audits=audits,
        clock=clock,
        heavyweight_timeout_s=settings.heavyweight_timeout_s,
        spend=meter.count,
    )
    rules = CascadeRules(
        model=settings.cascade_model,
        heavyweight_model=settings.heavyweight_model,
        stream_mode=settings.stream_mode,
        is_drafter_here=is_here(settings.drafter_address),
        is_default=settings.default_model == settings.cascade_model,
        plan_wait_s=settings.queue_timeout_s,
        host_id=host_id(),
    )
    await _check_drafter(settings, watch)
    await _warn_of_namesake(settings, local.directory)
    return CascadeBackend(rules, parts, heavyweights, local)


async def _check_drafter(settings: Settings, watch: DrafterWatch) -> None:
    described = await watch.described(settings.probe_timeout_s)
    if described is None:
        return
    timeout_s = described.timeout_ms / 1000
    if timeout_s >= settings.heavyweight_timeout_s:
        raise ConfigurationError(
            [
                f"the entropy-drafter's drafter_timeout_s is {timeout_s:g} s and the gateway's "
                f"heavyweight_timeout_s {settings.heavyweight_timeout_s:g} s: lower the first or "
                "raise the second"
            ]
        )


async def _warn_of_namesake(settings: Settings, directory: ModelDirectory) -> None:
    """A model of the fleet behind the cascade's name can no longer be asked for."""
    try:
        states = await directory.states()
    except ShoalError:
        return
    if any(state.model == settings.cascade_model for state in states):
        log.warning("cascade hides a model", extra={"model": settings.cascade_model})
