"""Whom the service calls, made from the settings: the fleet, a drafting upstream, an embedder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

from shoal_common.driving import GrpcRouter, GrpcStages
from shoal_common.host import host_id
from shoal_common.log import redact
from shoal_common.rpc import Dial
from shoal_common.settings import ConfigurationError, variable_of
from shoal_entropy_drafter.draft.base import DraftSource
from shoal_entropy_drafter.draft.fleet import FleetDrafts
from shoal_entropy_drafter.embedder.base import Embedded, Embedder
from shoal_entropy_drafter.embedder.opening import open_embedder
from shoal_entropy_drafter.errors import EmbedderMissing
from shoal_entropy_drafter.settings import Settings

log = logging.getLogger(__name__)

STAGE_SILENCE_S = 2.0
"""Without a sign of life from a head for so long, its draft counts as lost."""
_LIST_TIMEOUT_S = 5.0


async def open_source(
    settings: Settings, candidate_count: int, dial: Dial, stack: AsyncExitStack
) -> DraftSource | None:
    """Who drafts, None for nobody; `stack` closes it. Raises ConfigurationError.

    Nothing is dialled here: a fleet may start after its drafter; `start_checks` asks upstreams.
    """
    if settings.drafter_provider == "none":
        return None
    if settings.drafter_provider == "fleet":
        return await _fleet(settings, candidate_count, dial, stack)
    # It costs 1.2 s and 60 MB.
    from shoal_entropy_drafter.draft.upstream import UpstreamDrafts

    check_url(settings)
    source = UpstreamDrafts(
        settings.drafter_model,
        settings.drafter_base_url,
        drafter_key(settings),
        settings.drafter_timeout_s,
        candidate_count,
    )
    stack.push_async_callback(source.close)
    return source


async def _fleet(
    settings: Settings, candidate_count: int, dial: Dial, stack: AsyncExitStack
) -> DraftSource:
    token = settings.fleet.secret_token()
    channel = dial(settings.router_address, token=token)
    stack.push_async_callback(channel.close)
    stages = GrpcStages(token, settings.drafter_timeout_s, STAGE_SILENCE_S, dial)
    stack.push_async_callback(stages.close)
    router = GrpcRouter(channel, _LIST_TIMEOUT_S)
    return FleetDrafts(settings.drafter_model, router, stages, candidate_count, host_id())


def drafter_key(settings: Settings) -> str:
    """The upstream's key, "" where it wants none. Raises ConfigurationError."""
    key = settings.drafter_api_key.get_secret_value()
    path = settings.drafter_api_key_file
    option = "drafter_api_key"
    if not key and path is not None:
        option = "drafter_api_key_file"
        try:
            key = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as err:
            raise refusal(option, f"{path} cannot be read: {type(err).__name__}") from err
        if not key:
            raise refusal(option, f"{path} is empty: write the key into it")
    if not key.isascii() or not key.isprintable():
        raise refusal(option, "holds a character that no header may: copy the key again")
    return key


def check_url(settings: Settings) -> None:
    """Raise ConfigurationError where `drafter_base_url` names no server."""
    url = settings.drafter_base_url
    try:
        parts = urlsplit(url)
        is_usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise refusal("drafter_base_url", f"'{redact(url)}' is not an address: correct it")


def refusal(option: str, problem: str) -> ConfigurationError:
    """An option that cannot be used, by both its names."""
    return ConfigurationError([f"{option} ({variable_of(Settings.service, option)}): {problem}"])


async def opened_embedder(settings: Settings) -> Embedder:
    """The embedder, or one that refuses every call where the local model is not installed.

    Drafts need no vectors, so that one is an error in the log and no end. Raises
    ConfigurationError for settings that cannot be used.
    """
    try:
        return await open_embedder(settings)
    except EmbedderMissing as err:
        log.error("embedding model missing", extra={"problem": str(err)})
        return AbsentEmbedder(settings.embedding_model, settings.embedding_dimensions, err)


class AbsentEmbedder:
    """Stands where an `Embedder` should be, and says at every call why there is none."""

    def __init__(self, model: str, dimensions: int, problem: EmbedderMissing) -> None:
        self.model = model
        self.dimensions = dimensions
        self._problem = problem.problem

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Raises EmbedderMissing."""
        raise EmbedderMissing(self.model, self._problem)

    async def close(self) -> None:
        """There is nothing to close."""
