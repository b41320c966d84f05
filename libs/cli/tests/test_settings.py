"""Options win over the environment, and our own variable reaches no service."""

from pathlib import Path

import pytest

from shoal_cli import settings


def test_option_wins_over_environment_over_default() -> None:
    environment = {"SHOAL_DATA_DIR": "/from/environment"}
    assert settings.load(Path("/from/option"), environment).data_dir == Path("/from/option")
    assert settings.load(None, environment).data_dir == Path("/from/environment")
    assert settings.load(None, {}).data_dir == Path.home() / ".local/share/shoal"


def test_api_key_is_kept_from_child_processes() -> None:
    own = settings.load(None, {"SHOAL_API_KEY": "k", "PATH": "/bin"})
    assert own.api_key == "k"
    assert own.environment["PATH"] == "/bin"
    assert "SHOAL_API_KEY" not in own.environment


def test_grpc_in_children_is_quiet_unless_asked_otherwise() -> None:
    assert settings.load(None, {}).environment == {
        "GRPC_VERBOSITY": "ERROR",
        "GRPC_ENABLE_FORK_SUPPORT": "0",
    }
    assert settings.load(None, {"GRPC_VERBOSITY": "INFO"}).environment["GRPC_VERBOSITY"] == "INFO"


def test_missing_key_file_is_no_key(tmp_path: Path) -> None:
    assert settings.read_key(tmp_path) == ""
    (tmp_path / "api_key").write_text("abc\n")
    assert settings.read_key(tmp_path) == "abc"


@pytest.fixture
def working_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "working"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("service", ["router", "gateway"])
def test_a_redis_named_anywhere_is_seen(tmp_path: Path, working_dir: Path, service: str) -> None:
    def named(config: Path | None = None, folder: Path = tmp_path, **variables: str) -> str:
        options = settings.ServiceOptions(variables, config, folder)
        return options.named(service, "redis_url", also="REDIS_URL") or ""

    own = f"SHOAL_{service.upper()}_REDIS_URL"
    assert named() == ""
    config = tmp_path / "config.toml"
    config.write_text(f'[{service}]\nredis_url = "redis://file"\n')
    elsewhere = tmp_path / "none"
    assert named() == "redis://file"
    assert named(config, elsewhere) == "redis://file"
    assert named(None, elsewhere, SHOAL_CONFIG=str(config)) == "redis://file"
    assert named(None, elsewhere) == ""
    (working_dir / ".env").write_text("REDIS_URL=redis://working\n")
    assert named() == "redis://working"
    (tmp_path / ".env").write_text("REDIS_URL=redis://data\n")
    assert named() == "redis://data"
    assert named(REDIS_URL="redis://variable") == "redis://variable"
    assert named(**{"REDIS_URL": "redis://variable", own: "redis://own"}) == "redis://own"
    assert named(**{own: ""}) == ""


def test_a_redis_of_one_service_is_not_that_of_the_other(tmp_path: Path, working_dir: Path) -> None:
    (tmp_path / "config.toml").write_text('[router]\nredis_url = "redis://file"\n')
    assert settings.ServiceOptions({}, None, tmp_path).named("gateway", "redis_url") is None
    variables = {"SHOAL_GATEWAY_REDIS_URL": "redis://gateway"}
    options = settings.ServiceOptions(variables, None, tmp_path)
    assert options.named("router", "redis_url", also="REDIS_URL") == "redis://file"


def test_an_option_that_is_set_to_nothing_is_said(tmp_path: Path, working_dir: Path) -> None:
    (tmp_path / "config.toml").write_text('[entropy-drafter]\ndrafter_provider = "none"\n')
    variables = {"SHOAL_GATEWAY_CASCADE_MODEL": ""}
    options = settings.ServiceOptions(variables, None, tmp_path)
    assert options.named("gateway", "cascade_model") == ""
    assert options.named("gateway", "heavyweight_model") is None
    assert options.named("entropy_drafter", "drafter_provider") == "none"


def test_a_config_file_that_is_wrong_names_no_redis(tmp_path: Path, working_dir: Path) -> None:
    for text in ("[gateway\n", "gateway = 3\n", "[gateway]\nredis_url = 3\n"):
        (tmp_path / "config.toml").write_text(text)
        options = settings.ServiceOptions({}, None, tmp_path)
        assert options.named("gateway", "redis_url") is None
