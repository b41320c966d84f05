"""The list of models as Anthropic's clients page through it."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from shoal_common.errors import InvalidRequest
from shoal_gateway.dialects.anthropic_models import model_info, page_asked, page_of

KEY = "k" * 64
MODELS = [model_info(name, 512) for name in "abcde"]


@pytest.mark.parametrize(
    ("query", "ids", "has_more"),
    [
        ({}, "abcde", False),
        ({"limit": "2"}, "ab", True),
        ({"limit": "2", "after_id": "b"}, "cd", True),
        ({"limit": "2", "after_id": "c"}, "de", False),
        ({"after_id": "e"}, "", False),
        ({"limit": "2", "before_id": "e"}, "cd", True),
        ({"limit": "9", "before_id": "c"}, "ab", False),
    ],
)
def test_a_page_and_its_ends(query: dict[str, str], ids: str, has_more: bool) -> None:
    page = page_of(MODELS, page_asked(query))
    assert [model["id"] for model in page["data"]] == list(ids)
    assert page["has_more"] is has_more
    assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "²"}, "limit"),
        ({"limit": "9" * 5000}, "limit"),
        ({"after_id": "z"}, "after_id"),
        ({"before_id": "z"}, "before_id"),
        ({"after_id": "a", "before_id": "b"}, "before_id"),
    ],
)
def test_a_wrong_page_is_named(query: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        page_of(MODELS, page_asked(query))
    assert refused.value.param == param


def test_a_model_whose_context_is_not_known_claims_none() -> None:
    info = model_info("m", 0)
    assert info["max_input_tokens"] is info["max_tokens"] is None


async def test_the_official_client_lists_and_finds_models(fleet: Any) -> None:
    async with AsyncAnthropic(base_url=fleet.url, api_key=KEY, max_retries=0) as client:
        found = [model async for model in client.models.list()]
        assert [(model.id, model.type, model.max_input_tokens) for model in found] == [
            ("heavyweight", "model", 512)
        ]
        assert found[0].created_at.year == 1970
        assert (await client.models.retrieve("heavyweight")).display_name == "heavyweight"
        with pytest.raises(anthropic.NotFoundError) as unknown:
            await client.models.retrieve("nobody")
        assert unknown.value.type == "not_found_error"
        with pytest.raises(anthropic.BadRequestError, match="limit"):
            await client.models.list(limit=5000)
