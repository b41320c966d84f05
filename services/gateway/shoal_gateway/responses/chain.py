"""The turns that a response continues, out of the store."""

from __future__ import annotations

from collections.abc import Sequence

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.dialects.responses_items import Item, response_of
from shoal_gateway.responses.errors import PreviousResponseNotFound
from shoal_gateway.responses.record import Record
from shoal_gateway.responses.store import ResponseStore


async def earlier_items(store: ResponseStore, previous_id: str, tenant: str) -> list[Item]:
    """Inputs and outputs of all turns up to `previous_id`, oldest first.

    Raises PreviousResponseNotFound when one of them is missing: an answer without what was said
    would be a wrong one. Raises InvalidRequest for a turn that has not ended, StoreUnreachable.
    """
    turns: list[list[Item]] = []
    item_count = 0
    while previous_id:
        record = await store.load(previous_id, tenant)
        if record is None:
            raise PreviousResponseNotFound(previous_id)
        if not record.is_ended:
            raise InvalidRequest(
                f"response '{previous_id}' is still {record.status}; wait for its end",
                param="previous_response_id",
            )
        turns.append(_items(record))
        item_count += len(turns[-1])
        if item_count > limits.MESSAGE_COUNT_MAX:
            raise InvalidRequest(
                f"the conversation has more than {limits.MESSAGE_COUNT_MAX} items; begin anew",
                param="previous_response_id",
            )
        previous_id = record.previous_id
    return [item for turn in reversed(turns) for item in turn]


async def with_references(store: ResponseStore, items: Sequence[Item], tenant: str) -> list[Item]:
    """`items` with stored ones in the place of references.

    Raises InvalidRequest naming a reference to nothing, StoreUnreachable.
    """
    records: dict[str, Record | None] = {}
    found: list[Item] = []
    for index, item in enumerate(items):
        if item["type"] != "item_reference":
            found.append(item)
            continue
        response_id = response_of(item["id"])
        if response_id and response_id not in records:
            records[response_id] = await store.load(response_id, tenant)
        record = records.get(response_id)
        stored = [] if record is None else [e for e in _items(record) if e["id"] == item["id"]]
        if not stored:
            raise InvalidRequest(
                f"'input[{index}].id' names no stored item: '{item['id']}'",
                param=f"input[{index}].id",
            )
        found.append(stored[0])
    return found


def _items(record: Record) -> list[Item]:
    return [dict(item) for item in (*record.items, *record.response["output"])]
