"""What `up` starts, as tables of options and settings."""

import json
from pathlib import Path

import pytest

from shoal_cli import fleet
from shoal_cli.errors import BadOptions
from shoal_cli.fleet import Fleet, OwnRedis, Ports, RedisPlan, UpOptions
from shoal_cli.local_model import LocalModel

BIG = LocalModel("big", Path("/models/big"), 7)
SMALL = LocalModel("small", Path("/other/small"), 2)


REDIS = OwnRedis(Path("/bin/redis-server"), 4, "geheim")


def plan(redis: RedisPlan | None = None, **changes: object) -> Fleet:
    known: dict[str, object] = {"data_dir": Path("/data"), "port": 8800, "models": (BIG,)}
    options = UpOptions(**{**known, **changes})  # type: ignore[arg-type]
    return fleet.plan_fleet(options, Ports(1, 2, 3), Path("/bin/nats-server"), redis)


@pytest.mark.parametrize(
    ("layers", "workers", "ranges"),
    [
        (6, 1, [(0, 6)]),
        (6, 2, [(0, 3), (3, 6)]),
        (7, 3, [(0, 3), (3, 5), (5, 7)]),
        (3, 3, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_layers_are_divided_evenly(
    layers: int, workers: int, ranges: list[tuple[int, int]]
) -> None:
    assert fleet.layer_ranges(layers, workers) == ranges


def test_more_workers_than_layers_cannot_split() -> None:
    with pytest.raises(BadOptions, match=r"2 layers .* 3 parts: ask for 2"):
        plan(models=(SMALL,), worker_count=3, is_split=True)


@pytest.mark.parametrize(
    ("worker_count", "is_split", "loads"),
    [
        (1, False, ["big,small"]),
        (2, False, ["big,small", "big,small"]),
        (2, True, ["big@0:4,small@0:1", "big@4:7,small@1:2"]),
    ],
)
def test_worker_loads(worker_count: int, is_split: bool, loads: list[str]) -> None:
    made = plan(models=(BIG, SMALL), worker_count=worker_count, is_split=is_split)
    assert [worker.settings["SHOAL_WORKER_GPU_LOAD"] for worker in made.workers] == loads


def test_workers_hold_nothing_from_the_start_when_the_router_decides() -> None:
    made = plan(models=(BIG, SMALL), worker_count=2, is_auto=True)
    assert [worker.settings["SHOAL_WORKER_GPU_LOAD"] for worker in made.workers] == ["", ""]


@pytest.mark.parametrize(
    ("ways", "named"),
    [
        ({"is_split": True, "is_auto": True}, "--split and --auto"),
        ({"shards": ((0, 7),), "is_auto": True}, "--shards and --auto"),
        ({"shards": ((0, 7),), "is_split": True}, "--split and --shards"),
    ],
)
def test_only_one_way_says_who_holds_what(ways: dict[str, object], named: str) -> None:
    with pytest.raises(BadOptions, match=named):
        plan(**ways)


def test_order_and_names() -> None:
    names = [spec.name for spec in plan(worker_count=2).specs]
    assert names == ["nats", "shard-store", "router", "worker-1", "worker-2", "gateway"]


def test_redis_starts_before_who_needs_it() -> None:
    names = [spec.name for spec in plan(RedisPlan.of_own(REDIS)).specs]
    assert names == ["nats", "redis", "shard-store", "router", "worker-1", "gateway"]


def test_only_who_keeps_something_there_is_told_of_redis() -> None:
    made = plan(RedisPlan.of_own(REDIS))
    told = [spec.name for spec in made.specs if "REDIS_URL" in spec.settings]
    assert told == ["router", "gateway"]
    assert made.gateway.settings["REDIS_URL"] == "redis://:geheim@127.0.0.1:4/0"
    assert "REDIS_URL" not in plan().gateway.settings


def test_who_names_no_redis_shares_the_one_that_the_other_names() -> None:
    made = plan(RedisPlan.of_named("", "redis://of-the-gateway"))
    assert made.redis is None
    assert made.router.settings["REDIS_URL"] == "redis://of-the-gateway"
    assert "REDIS_URL" not in made.gateway.settings
    made = plan(RedisPlan.of_named("redis://of-the-router", ""))
    assert made.gateway.settings["REDIS_URL"] == "redis://of-the-router"
    made = plan(RedisPlan.of_named("redis://one", "redis://two"))
    assert not [spec.name for spec in made.specs if "REDIS_URL" in spec.settings]


def test_the_password_of_redis_is_in_its_config_alone() -> None:
    redis = plan(RedisPlan.of_own(REDIS)).redis
    assert redis is not None
    assert redis.argv == ("/bin/redis-server", "/data/run/redis.conf")
    assert "geheim" not in repr(REDIS)
    lines = fleet.redis_config(REDIS, Path("/data/my redis")).splitlines()
    assert 'requirepass "geheim"' in lines
    assert "bind 127.0.0.1" in lines
    assert 'dir "/data/my redis"' in lines
    assert "appendonly yes" in lines


def test_gateway_knows_the_ports_of_the_others() -> None:
    made = plan(port=9000)
    own = {key: value for key, value in made.gateway.settings.items() if "_GATEWAY_" in key}
    assert own == {
        "SHOAL_GATEWAY_LISTEN_HOST": "127.0.0.1",
        "SHOAL_GATEWAY_LISTEN_PORT": "9000",
        "SHOAL_GATEWAY_SHARD_STORE_ADDRESS": "127.0.0.1:2",
        "SHOAL_GATEWAY_ROUTER_ADDRESS": "127.0.0.1:3",
        "SHOAL_GATEWAY_READY_FILE": "/data/run/gateway.ready.json",
    }
    assert made.router.settings["SHOAL_ROUTER_LISTEN_ADDRESS"] == "127.0.0.1:3"
    assert made.shard_store.settings["SHOAL_SHARD_STORE_LISTEN_ADDRESS"] == "127.0.0.1:2"


def test_every_service_finds_broker_token_and_data() -> None:
    for spec in plan().specs[1:]:
        assert spec.settings["SHOAL_NATS_URL"] == "nats://127.0.0.1:1"
        assert spec.settings["SHOAL_FLEET_TOKEN_FILE"] == "/data/fleet_token"
        assert spec.settings["SHOAL_DATA_DIR"] == "/data"


def test_secrets_are_in_no_settings_and_no_arguments() -> None:
    for spec in plan().specs:
        assert not any(key.endswith(("_TOKEN", "_API_KEY")) for key in spec.settings)


def test_store_may_read_only_where_the_models_lie() -> None:
    settings = plan(models=(BIG, SMALL)).shard_store.settings
    assert json.loads(settings["SHOAL_SHARD_STORE_IMPORT_ROOTS"]) == ["/models", "/other"]


@pytest.mark.parametrize(("cores", "workers", "share"), [(8, 2, "4"), (2, 4, "1"), (1, 1, "1")])
def test_workers_share_the_cores(cores: int, workers: int, share: str) -> None:
    made = plan(core_count=cores, worker_count=workers)
    assert {spec.settings["SHOAL_WORKER_GPU_CORES"] for spec in made.workers} == {share}


@pytest.mark.parametrize(
    ("verbosity", "level"), [(0, "warning"), (1, "info"), (2, "debug"), (5, "debug")]
)
def test_verbosity_sets_the_log_level(verbosity: int, level: str) -> None:
    assert plan(verbosity=verbosity).router.settings["SHOAL_LOG_LEVEL"] == level


def test_broker_is_chatty_only_when_asked() -> None:
    assert plan().nats.quiet_mark == "[INF]"
    assert plan(verbosity=1).nats.quiet_mark == ""


def test_config_file_is_handed_to_services_not_to_the_broker() -> None:
    made = plan(config=Path("/etc/shoal.toml"))
    assert made.nats.argv == ("/bin/nats-server", "-c", "/data/run/nats.conf")
    for spec in made.specs[1:]:
        assert spec.argv[-2:] == ("--config", "/etc/shoal.toml")


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ((), "no model"),
        ((BIG, LocalModel("big", Path("/b/big"), 1)), "same name: big, big"),
        ((LocalModel("a@b", Path("/a@b"), 1),), "a@b"),
    ],
)
def test_models_that_cannot_be_served(models: tuple[LocalModel, ...], message: str) -> None:
    with pytest.raises(BadOptions, match=message):
        plan(models=models)


def test_broker_listens_on_loopback_and_wants_the_token() -> None:
    assert fleet.nats_config(4222, "secret").splitlines()[:2] == [
        'listen: "127.0.0.1:4222"',
        'authorization { token: "secret" }',
    ]


def test_shards_name_the_first_and_last_layer_of_each_worker() -> None:
    assert fleet.parse_shards("0-3, 4-4,2-5") == ((0, 4), (4, 5), (2, 6))
    model = LocalModel("m", Path("m"), 6)
    loads = fleet.worker_loads([model], 2, False, fleet.parse_shards("0-3,2-5"))
    assert loads == ["m@0:4", "m@2:6"]


@pytest.mark.parametrize("text", ["", "3", "4-3", "0-3;4-5", "0:3", "-1-3", "0-3,"])
def test_shards_that_are_no_ranges_are_refused(text: str) -> None:
    with pytest.raises(BadOptions, match="as in 0-3,4-5"):
        fleet.parse_shards(text)


@pytest.mark.parametrize(
    ("text", "problem"), [("0-6", "there is no 0-6"), ("0-3,5-5", "nobody would hold layer 4")]
)
def test_shards_hold_all_layers_and_nothing_else(text: str, problem: str) -> None:
    model = LocalModel("m", Path("m"), 6)
    with pytest.raises(BadOptions, match=f"m has layers 0-5, and {problem}"):
        fleet.worker_loads([model], 2, False, fleet.parse_shards(text))
