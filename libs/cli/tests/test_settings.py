"""Options win over the environment, and our own variable reaches no service."""

from pathlib import Path

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


def test_a_redis_named_anywhere_is_seen(tmp_path: Path) -> None:
    assert not settings.names_redis({}, None, tmp_path)
    for name in ("REDIS_URL", "SHOAL_GATEWAY_REDIS_URL"):
        assert settings.names_redis({name: "redis://other"}, None, tmp_path)
        assert not settings.names_redis({name: ""}, None, tmp_path)
    config = tmp_path / "config.toml"
    config.write_text('[gateway]\nredis_url = "redis://other"\n')
    assert settings.names_redis({}, None, tmp_path)
    elsewhere = tmp_path / "none"
    assert settings.names_redis({}, config, elsewhere)
    assert settings.names_redis({"SHOAL_CONFIG": str(config)}, None, elsewhere)
    assert not settings.names_redis({}, None, elsewhere)
    config.write_text("[gateway\n")
    assert not settings.names_redis({}, config, elsewhere)
