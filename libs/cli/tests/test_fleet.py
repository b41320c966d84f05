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
    return fleet.plan_fleet(options, Ports(1, 2, 3, 5), Path("/bin/nats-server"), redis)


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
    first = ["nats", "shard-store", "router", "entropy-drafter"]
    assert names == [*first, "worker-1", "worker-2", "gateway"]


def test_redis_starts_before_who_needs_it() -> None:
    names = [spec.name for spec in plan(RedisPlan.of_own(REDIS)).specs]
    first = ["nats", "redis", "shard-store", "router", "entropy-drafter"]
    assert names == [*first, "worker-1", "gateway"]


def test_only_who_keeps_something_there_is_told_of_redis() -> None:
    made = plan(RedisPlan.of_own(REDIS))
    told = [spec.name for spec in made.specs if "REDIS_URL" in spec.settings]
    assert told == ["router", "entropy-drafter", "gateway"]
    assert made.gateway.settings["REDIS_URL"] == "redis://:geheim@127.0.0.1:4/0"
    assert "REDIS_URL" not in plan().gateway.settings


def test_who_names_no_redis_shares_the_one_that_the_other_names() -> None:
    made = plan(RedisPlan.of_named("", "redis://of-the-gateway"))
    assert made.redis is None
    assert made.router.settings["REDIS_URL"] == "redis://of-the-gateway"
    assert "REDIS_URL" not in made.gateway.settings
    made = plan(RedisPlan.of_named("redis://of-the-router", ""))
    assert made.gateway.settings["REDIS_URL"] == "redis://of-the-router"
    assert made.drafter is not None
    assert made.drafter.settings["REDIS_URL"] == "redis://of-the-router"
    made = plan(RedisPlan.of_named("redis://one", "redis://two", "redis://three"))
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
        "SHOAL_GATEWAY_DRAFTER_ADDRESS": "127.0.0.1:5",
        "SHOAL_GATEWAY_CASCADE_MODEL": "",
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


def test_a_fleet_without_a_drafter_only_embeds() -> None:
    made = plan(models=(BIG, SMALL))
    assert made.drafter is not None
    own = {key: value for key, value in made.drafter.settings.items() if "_DRAFTER_" in key}
    assert own == {
        "SHOAL_ENTROPY_DRAFTER_LISTEN_ADDRESS": "127.0.0.1:5",
        "SHOAL_ENTROPY_DRAFTER_ROUTER_ADDRESS": "127.0.0.1:3",
        "SHOAL_ENTROPY_DRAFTER_DRAFTER_PROVIDER": "none",
        "SHOAL_ENTROPY_DRAFTER_READY_FILE": "/data/run/entropy-drafter.ready.json",
    }
    assert "SHOAL_GATEWAY_HEAVYWEIGHT_MODEL" not in made.gateway.settings


def test_the_first_model_takes_over_from_the_drafter_and_answers_who_names_none() -> None:
    made = plan(models=(SMALL, BIG), drafter="small")
    assert made.drafter is not None
    assert made.drafter.settings["SHOAL_ENTROPY_DRAFTER_DRAFTER_PROVIDER"] == "fleet"
    assert made.drafter.settings["SHOAL_ENTROPY_DRAFTER_DRAFTER_MODEL"] == "small"
    assert made.gateway.settings["SHOAL_GATEWAY_HEAVYWEIGHT_MODEL"] == "big"
    assert made.gateway.settings["SHOAL_GATEWAY_DEFAULT_MODEL"] == "big"


def test_a_fleet_that_wants_no_drafter_has_none() -> None:
    made = plan(has_drafter=False)
    assert made.drafter is None
    assert "entropy-drafter" not in [spec.name for spec in made.specs]
    assert not [key for key in made.gateway.settings if "DRAFTER" in key]


@pytest.mark.parametrize(
    ("choice", "problem"),
    [
        ({"drafter": "big"}, "take over from its own drafts"),
        ({"models": (BIG, SMALL), "drafter": "small", "has_drafter": False}, "contradict"),
    ],
)
def test_drafters_that_make_no_cascade(choice: dict[str, object], problem: str) -> None:
    with pytest.raises(BadOptions, match=problem):
        plan(**choice)


@pytest.mark.parametrize(
    ("ways", "loads"),
    [
        (
            {"worker_count": 3, "is_split": True},
            ["big@0:3,small", "big@3:5,small", "big@5:7,small"],
        ),
        ({"worker_count": 2, "shards": ((0, 4), (3, 7))}, ["big@0:4,small", "big@3:7,small"]),
        ({"worker_count": 1}, ["big,small"]),
    ],
)
def test_the_drafter_is_never_divided(ways: dict[str, object], loads: list[str]) -> None:
    made = plan(models=(BIG, SMALL), drafter="small", **ways)
    assert [worker.settings["SHOAL_WORKER_GPU_LOAD"] for worker in made.workers] == loads
