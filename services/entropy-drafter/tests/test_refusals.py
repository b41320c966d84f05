"""Which key an upstream is shown, and how options are named that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal_common.settings import ConfigurationError, read
from shoal_entropy_drafter.refusals import drafter_key, embedding_key, named
from shoal_entropy_drafter.settings import Settings

ELSEWHERE = "https://models.example/v1"
FOREIGN = (ELSEWHERE, "http://api.openai.com/v1", "https://api.openai.com.example/v1")
ENVIRONMENT = {"OPENAI_API_KEY": "sk-of-openai", "HOME": "/nonexistent"}


def settings_of(tmp_path: Path, **arguments: str) -> Settings:
    return read(Settings, arguments, {**ENVIRONMENT, "SHOAL_DATA_DIR": str(tmp_path)})


def test_openai_is_shown_its_key(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    assert drafter_key(settings) == embedding_key(settings) == "sk-of-openai"


@pytest.mark.parametrize("url", FOREIGN)
def test_nobody_else_is_shown_openais_key(tmp_path: Path, url: str) -> None:
    settings = settings_of(tmp_path, drafter_base_url=url, embedding_base_url=url)
    assert drafter_key(settings) == embedding_key(settings) == ""


def test_a_key_of_its_own_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("from-file\n")
    given = settings_of(tmp_path, drafter_api_key="own", embedding_api_key="own-too")
    assert (drafter_key(given), embedding_key(given)) == ("own", "own-too")
    assert drafter_key(settings_of(tmp_path, drafter_api_key_file=str(path))) == "from-file"


def test_a_key_that_no_header_may_hold_is_refused_by_its_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"embedding_api_key .*copy the key again"):
        embedding_key(settings_of(tmp_path, embedding_api_key="a\nb"))


def test_options_are_named_with_the_variable_that_sets_them() -> None:
    assert named("openai_api_key") == "openai_api_key (OPENAI_API_KEY)"
    assert named("window_size") == "window_size (SHOAL_ENTROPY_DRAFTER_WINDOW_SIZE)"
