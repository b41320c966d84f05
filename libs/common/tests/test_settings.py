"""Where a setting comes from, what is refused, and what is never shown."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import MappingProxyType

import pytest
from pydantic import SecretStr, ValidationError

from shoal_common.settings import (
    ConfigurationError,
    FleetSettings,
    ServiceSettings,
    load,
    options,
    read,
    render,
)


class Settings(ServiceSettings, service="router"):
    heartbeat_timeout_s: float = 3.0
    """A worker silent for longer is left out of new plans."""
    peers: tuple[str, ...] = ()
    """Addresses of peers."""
    weights: dict[str, float] = {}  # noqa: RUF012 (pydantic copies it)
    """Weight by name."""
    is_strict: bool = False
    """Refuse what is unknown."""
    api_key: SecretStr = SecretStr("")
    """A secret."""


def _environ(tmp_path: Path, **variables: str) -> dict[str, str]:
    return {"SHOAL_DATA_DIR": str(tmp_path), **variables}


def _refused(arguments: dict[str, str], environ: dict[str, str]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(Settings, arguments, environ)
    return str(caught.value)


def test_each_source_wins_over_the_next(tmp_path: Path) -> None:
    environ = _environ(tmp_path)
    assert read(Settings, {}, environ).heartbeat_timeout_s == 3.0
    (tmp_path / "config.toml").write_text("[router]\nheartbeat_timeout_s = 4\n")
    assert read(Settings, {}, environ).heartbeat_timeout_s == 4.0
    environ["SHOAL_ROUTER_HEARTBEAT_TIMEOUT_S"] = "5"
    assert read(Settings, {}, environ).heartbeat_timeout_s == 5.0
    assert load(Settings, ["--heartbeat-timeout-s", "6"], environ).heartbeat_timeout_s == 6.0


def test_fleet_options_have_the_short_prefix_and_their_own_section(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[fleet]\nregion = "DE"\nlog_level = "debug"\n')
    fleet = read(Settings, {}, _environ(tmp_path, SHOAL_LOG_LEVEL="warn")).fleet
    assert (fleet.region, fleet.log_level, fleet.data_dir) == ("DE", "warn", tmp_path)


def test_nats_url_is_read_from_the_common_name_unless_ours_is_set(tmp_path: Path) -> None:
    environ = _environ(tmp_path, NATS_URL="nats://a:1")
    assert read(Settings, {}, environ).fleet.nats_url == "nats://a:1"
    environ["SHOAL_NATS_URL"] = "nats://b:2"
    assert read(Settings, {}, environ).fleet.nats_url == "nats://b:2"


def test_collections_are_json_or_a_comma_list(tmp_path: Path) -> None:
    environ = _environ(tmp_path, SHOAL_ROUTER_PEERS="a, b", SHOAL_ROUTER_WEIGHTS='{"x": 2}')
    settings = read(Settings, {}, environ)
    assert (settings.peers, settings.weights) == (("a", "b"), {"x": 2.0})
    assert read(Settings, {"peers": '["a,b"]'}, environ).peers == ("a,b",)


def test_a_flag_of_a_boolean_needs_no_value(tmp_path: Path) -> None:
    assert load(Settings, ["--is-strict"], _environ(tmp_path)).is_strict
    assert not load(Settings, ["--is-strict", "false"], _environ(tmp_path)).is_strict


def test_empty_means_not_set_where_that_is_possible(tmp_path: Path) -> None:
    environ = _environ(tmp_path, SHOAL_ROUTER_READY_FILE="", SHOAL_ROUTER_SIDE_ADDRESS="")
    settings = read(Settings, {}, environ)
    assert settings.ready_file is None
    assert settings.side_address == ""


def test_unknown_variables_are_named(tmp_path: Path) -> None:
    environ = _environ(tmp_path, SHOAL_ROUTER_HEARTBEAT="1", SHOAL_REGON="DE")
    message = _refused({}, environ)
    assert "SHOAL_ROUTER_HEARTBEAT" in message
    assert "SHOAL_REGON" in message


def test_variables_of_other_services_are_theirs_to_check(tmp_path: Path) -> None:
    read(Settings, {}, _environ(tmp_path, SHOAL_GATEWAY_API_KEY="x", SHOAL_WORKER_GPU_LOAD="y"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SHOAL_ROUTER_PORT", "tcp://10.0.0.7:7002"),
        ("SHOAL_ROUTER_SERVICE_HOST", "10.0.0.7"),
        ("SHOAL_ROUTER_SERVICE_PORT", "7002"),
        ("SHOAL_ROUTER_SERVICE_PORT_GRPC", "7002"),
        ("SHOAL_ROUTER_PORT_7002_TCP", "tcp://10.0.0.7:7002"),
        ("SHOAL_ROUTER_PORT_7002_TCP_ADDR", "10.0.0.7"),
        ("SHOAL_ROUTER_PORT_7002_TCP_PROTO", "tcp"),
        ("SHOAL_PORT", "tcp://10.0.0.7:80"),
        ("SHOAL_REDIS_PORT_6379_TCP_PORT", "6379"),
    ],
)
def test_service_links_of_kubernetes_are_ignored(tmp_path: Path, name: str, value: str) -> None:
    read(Settings, {}, _environ(tmp_path, **{name: value}))


def test_a_port_that_is_no_service_link_is_refused(tmp_path: Path) -> None:
    assert "SHOAL_ROUTER_PORT" in _refused({}, _environ(tmp_path, SHOAL_ROUTER_PORT="7002"))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[router]\nheartbeat = 1\n", "heartbeat"),
        ("[roter]\n", "roter"),
        ("router = 1\n", "must be a section"),
        ("[router\n", "cannot be read"),
        ('[router]\nheartbeat_timeout_s = "soon"\n', "config.toml"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, content: str, named: str) -> None:
    (tmp_path / "config.toml").write_text(content)
    assert named in _refused({}, _environ(tmp_path))


def test_sections_may_be_written_like_folders_and_others_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[worker-gpu]\nwhatever = 1\n[router]\npeers = ['a']\n")
    assert read(Settings, {}, _environ(tmp_path)).peers == ("a",)


def test_a_named_file_must_exist_and_the_default_one_need_not(tmp_path: Path) -> None:
    read(Settings, {}, _environ(tmp_path))
    missing = str(tmp_path / "other.toml")
    assert "does not exist" in _refused({"config": missing}, _environ(tmp_path))
    assert "does not exist" in _refused({}, _environ(tmp_path, SHOAL_CONFIG=missing))


def test_dotenv_lies_under_the_environment_and_over_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SHOAL_REGION=dotenv\nSHOAL_LOG_LEVEL=debug\n")
    (tmp_path / "config.toml").write_text('[fleet]\nregion = "file"\n')
    fleet = read(Settings, {}, _environ(tmp_path, SHOAL_LOG_LEVEL="error")).fleet
    assert (fleet.region, fleet.log_level) == ("dotenv", "error")


def test_a_wrong_value_names_its_source_and_hides_the_value(tmp_path: Path) -> None:
    message = _refused({}, _environ(tmp_path, SHOAL_ROUTER_DRAIN_TIMEOUT_S="sk-hunter2hunter2"))
    assert "SHOAL_ROUTER_DRAIN_TIMEOUT_S" in message
    assert "hunter2" not in message


def test_wrong_settings_end_the_process_with_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        load(Settings, ["--drain-timeout-s", "-1"], _environ(tmp_path))
    assert caught.value.code == 2
    assert "--drain-timeout-s" in capsys.readouterr().err


def test_print_settings_is_a_config_file_without_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = _environ(
        tmp_path,
        SHOAL_FLEET_TOKEN="fleet-hunter2",
        SHOAL_ROUTER_API_KEY="sk-hunter2hunter2",
        SHOAL_NATS_URL="nats://shoal:hunter2@127.0.0.1:4222",
        SHOAL_ROUTER_WEIGHTS='{"a b": 1}',
    )
    with pytest.raises(SystemExit) as caught:
        load(Settings, ["--print-settings", "--is-strict"], environ)
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "hunter2" not in text
    parsed = tomllib.loads(text)
    assert parsed["router"]["weights"] == {"a b": 1.0}
    assert parsed["router"]["is_strict"] is True
    assert parsed["fleet"]["data_dir"] == str(tmp_path)
    assert "# --is-strict" in text


def test_secrets_have_no_flag(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        load(Settings, ["--api-key", "x"], _environ(tmp_path))
    assert caught.value.code == 2


def test_settings_built_directly_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_ROUTER_HEARTBEAT_TIMEOUT_S", "9")
    monkeypatch.setenv("HEARTBEAT_TIMEOUT_S", "9")
    assert Settings().heartbeat_timeout_s == 3.0


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().drain_timeout_s = 1.0
    with pytest.raises(ValidationError):
        Settings().fleet.region = "US"


def test_every_option_is_documented() -> None:
    assert [option.name for option in options(Settings) if not option.info.description] == []


def test_the_home_folder_is_expanded() -> None:
    assert FleetSettings().data_dir.is_absolute()


def test_fleet_token_comes_from_its_field_or_else_its_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert FleetSettings().secret_token() == ""
    assert FleetSettings(token_file=file).secret_token() == "from-file"
    assert FleetSettings(token_file=file, token=SecretStr("given")).secret_token() == "given"


def test_an_empty_or_missing_token_file_never_means_open(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "missing"):
        with pytest.raises(ConfigurationError):
            FleetSettings(token_file=tmp_path / name).secret_token()


def test_an_own_option_may_not_be_called_like_a_fleet_option() -> None:
    with pytest.raises(AssertionError, match="region"):

        class Clash(ServiceSettings, service="router"):
            region: str = ""
            """Clashes with the fleet's."""


class Replaced(ServiceSettings, service="worker_gpu"):
    without_effect = MappingProxyType({"max_batch_size": "batching", "gpu_layers": "placement"})


def _notices(settings: ServiceSettings, caplog: pytest.LogCaptureFixture) -> list[object]:
    caplog.clear()
    settings.log_ignored()
    return [vars(record)["replaced_by"] for record in caplog.records]


def test_options_without_effect_are_accepted_and_told_in_one_notice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.toml").write_text("[worker-gpu]\ngpu_layers = 12\n")
    environ = _environ(tmp_path, SHOAL_WORKER_GPU_MAX_BATCH_SIZE="4")
    settings = read(Replaced, {}, environ)
    assert _notices(settings, caplog) == [{"max_batch_size": "batching", "gpu_layers": "placement"}]
    assert "max_batch_size has no effect: replaced by batching" in render(settings, {})


def test_where_no_option_without_effect_is_given_nothing_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = read(Replaced, {}, _environ(tmp_path))
    assert _notices(settings, caplog) == []
    assert "no effect" not in render(settings, {})


@pytest.mark.parametrize("content", ["[fleet]\ngpu_layers = 1\n", "[worker-gpu]\ngpu_layer = 1\n"])
def test_an_option_without_effect_is_accepted_under_its_own_name_only(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "config.toml").write_text(content)
    with pytest.raises(ConfigurationError, match="unknown option 'gpu_layer"):
        read(Replaced, {}, _environ(tmp_path))


def test_an_option_with_a_field_cannot_be_without_effect() -> None:
    with pytest.raises(AssertionError, match="drain_timeout_s"):
        type(
            "Both",
            (ServiceSettings,),
            {"without_effect": {"drain_timeout_s": "x"}, "__annotations__": {}},
        )
