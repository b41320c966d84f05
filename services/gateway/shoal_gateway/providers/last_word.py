"""What is said of a model that nobody serves."""

from __future__ import annotations

from shoal_common.errors import InvalidRequest, UnknownModel
from shoal_gateway.answers import Answer, Backend
from shoal_gateway.providers.errors import ProviderKeyMissing
from shoal_gateway.providers.table import provider_of
from shoal_gateway.task import ChatTask


class LastWord:
    """Refuses as `fleet` does; a name that is a provider's is told whose key is missing."""

    def __init__(self, fleet: Backend) -> None:
        self._fleet = fleet

    async def serves(self, model: str) -> bool:
        """All that is left."""
        return True

    async def open(self, request_id: str, task: ChatTask) -> Answer:
        try:
            return await self._fleet.open(request_id, task)
        except UnknownModel as err:
            raise _refusal(task.model, err) from err

    async def count_tokens(self, task: ChatTask) -> int:
        try:
            return await self._fleet.count_tokens(task)
        except UnknownModel as err:
            raise _refusal(task.model, err) from err

    async def require_images(self, task: ChatTask) -> None:
        try:
            await self._fleet.require_images(task)
        except UnknownModel as err:
            raise _refusal(task.model, err) from err


def _refusal(model: str, unknown: UnknownModel) -> InvalidRequest:
    provider = provider_of(model)
    return unknown if provider is None else ProviderKeyMissing(str(unknown), provider)
