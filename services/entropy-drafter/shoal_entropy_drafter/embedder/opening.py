"""Which embedder the settings ask for; it is ready when it comes, or refused with a remedy."""

from __future__ import annotations

import asyncio

from shoal_common.log import redact
from shoal_entropy_drafter.embedder.base import Embedder
from shoal_entropy_drafter.errors import EmbeddingFailed, EmbeddingRefused, EmbeddingTimedOut
from shoal_entropy_drafter.refusals import check_url, embedding_key, named, refusal
from shoal_entropy_drafter.settings import Settings


async def open_embedder(settings: Settings) -> Embedder:
    """The embedder, loaded (local) or asked once (upstream).

    Raises ConfigurationError naming the option, its variable and what to do; EmbedderMissing where
    the local model is not installed. The caller closes it.
    """
    if settings.embedding_provider == "local":
        return await _local(settings)
    return await _upstream(settings)


# Each branch imports its own libraries: nobody needs both, and both are large.


async def _local(settings: Settings) -> Embedder:
    from shoal_entropy_drafter.embedder import minilm
    from shoal_entropy_drafter.embedder.local import LocalEmbedder

    if settings.embedding_model != minilm.MODEL:
        raise refusal(
            "embedding_model",
            f"'{settings.embedding_model}' is not a model that is installed here: set it to "
            f"'{minilm.MODEL}', or {named('embedding_provider')} to openai",
        )
    if settings.embedding_dimensions != minilm.DIMENSIONS:
        raise refusal(
            "embedding_dimensions",
            f"{minilm.MODEL} has {minilm.DIMENSIONS} dimensions, not "
            f"{settings.embedding_dimensions}: set it to {minilm.DIMENSIONS}",
        )
    folder = minilm.model_folder()
    encoder = await asyncio.to_thread(minilm.MiniLm, folder, settings.embedding_threads)
    return LocalEmbedder(minilm.MODEL, encoder, settings.embedding_timeout_s)


async def _upstream(settings: Settings) -> Embedder:
    from shoal_entropy_drafter.embedder.upstream import UpstreamEmbedder

    check_url("embedding_base_url", settings.embedding_base_url)
    embedder = UpstreamEmbedder(
        settings.embedding_model,
        settings.embedding_dimensions,
        settings.embedding_base_url,
        embedding_key(settings),
        settings.embedding_timeout_s,
    )
    try:
        await _check(embedder, settings)
    except BaseException:
        await embedder.close()
        raise
    return embedder


async def _check(embedder: Embedder, settings: Settings) -> None:
    """Embed a word. Raises ConfigurationError where that fails."""
    try:
        await embedder.embed(["ready"])
    except EmbeddingRefused as err:
        remedies = {
            "embedding_api_key": "set a key that may embed",
            "embedding_model": f"name a model of {redact(settings.embedding_base_url)}, or correct "
            f"{named('embedding_base_url')}",
            "embedding_dimensions": "set it to what the model gives",
        }
        problem = f"embedding with '{embedder.model}' is refused, {err.problem}"
        raise refusal(err.option, f"{problem}: {remedies[err.option]}") from err
    except (EmbeddingFailed, EmbeddingTimedOut) as err:
        raise refusal(
            "embedding_base_url",
            f"{redact(settings.embedding_base_url)} does not embed, {err}: start that upstream, "
            f"correct the address, or set {named('embedding_provider')} to local",
        ) from err
