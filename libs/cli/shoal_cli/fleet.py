"""Which processes `shoal up` starts, and with which settings: pure functions from options to specs.

Starts nothing and writes nothing; ports and files are chosen by `up`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shoal_cli.cascade import CascadePlan, plan_cascade
from shoal_cli.errors import BadOptions
from shoal_cli.local_model import LocalModel
from shoal_cli.supervise import ProcessSpec

HOST = "127.0.0.1"
PROCESSES_FILE = "processes.json"
_REDIS_MEMORY = "512mb"
_SHARD_RANGE = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")
_LOG_LEVELS = ("warning", "info", "debug")


@dataclass(frozen=True)
class UpOptions:
    """What the person asked for, checked. `core_count` is what this machine lends to workers.

    Who holds what: every worker every model, or an even part of its layers (`is_split`), or the
    layers of `shards` (half-open, worker by worker), or what the router decides (`is_auto`).
    """

    data_dir: Path
    port: int
    models: tuple[LocalModel, ...]
    worker_count: int = 1
    is_split: bool = False
    shards: tuple[tuple[int, int], ...] = ()
    is_auto: bool = False
    verbosity: int = 0
    config: Path | None = None
    core_count: int = 1
    # The model of `models` that drafts, and whether the service that judges drafts is started.
    drafter: str = ""
    has_drafter: bool = True

    @property
    def heavyweight(self) -> str:
        """The model that takes over from the drafter; "" where there is no other."""
        return next((model.name for model in self.models if model.name != self.drafter), "")

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def run_dir(self) -> Path:
        """Files that say where the processes listen; worth nothing after a stop."""
        return self.data_dir / "run"

    @property
    def processes_file(self) -> Path:
        """What the supervisor says of its processes, written whenever one changes."""
        return self.run_dir / PROCESSES_FILE

    @property
    def state_file(self) -> Path:
        """There while the fleet is ready."""
        return self.run_dir / "fleet.json"

    @property
    def key_file(self) -> Path:
        return self.data_dir / "api_key"

    @property
    def token_file(self) -> Path:
        return self.data_dir / "fleet_token"

    @property
    def redis_password_file(self) -> Path:
        return self.data_dir / "redis_password"

    @property
    def redis_dir(self) -> Path:
        """What the fleet's own Redis keeps over a stop."""
        return self.data_dir / "redis"


@dataclass(frozen=True)
class Ports:
    """Loopback ports of processes that others must find again after a restart."""

    nats: int
    shard_store: int
    router: int
    drafter: int


@dataclass(frozen=True)
class OwnRedis:
    """A redis-server for this fleet alone."""

    program: Path
    port: int
    password: str = field(repr=False)

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{HOST}:{self.port}/0"


@dataclass(frozen=True)
class RedisPlan:
    """The fleet's own Redis, if it has one, and what services are told beyond their settings."""

    own: OwnRedis | None = None
    router_url: str = field(default="", repr=False)
    gateway_url: str = field(default="", repr=False)
    drafter_url: str = field(default="", repr=False)

    @classmethod
    def of_own(cls, own: OwnRedis, drafter_url: str = "") -> RedisPlan:
        """drafter_url: the one that the entropy-drafter names for its cache, if it does."""
        return cls(own, own.url, own.url, "" if drafter_url else own.url)

    @classmethod
    def of_named(cls, router_url: str, gateway_url: str, drafter_url: str = "") -> RedisPlan:
        """Who names none shares the other's; who names one is told nothing."""
        return cls(
            router_url="" if router_url else gateway_url,
            gateway_url="" if gateway_url else router_url,
            drafter_url="" if drafter_url else gateway_url or router_url,
        )


@dataclass(frozen=True)
class Fleet:
    """The processes in the order in which they start; models are imported before the workers.

    `redis` is None where there is no program for it, or another one is used; `drafter` where it is
    not wanted.
    """

    nats: ProcessSpec
    redis: ProcessSpec | None
    shard_store: ProcessSpec
    router: ProcessSpec
    drafter: ProcessSpec | None
    workers: tuple[ProcessSpec, ...]
    gateway: ProcessSpec

    @property
    def specs(self) -> tuple[ProcessSpec, ...]:
        first = (self.nats, self.redis, self.shard_store, self.router, self.drafter)
        return (*(spec for spec in first if spec is not None), *self.workers, self.gateway)


def layer_ranges(layer_count: int, worker_count: int) -> list[tuple[int, int]]:
    """Cut [0, layer_count) into `worker_count` half-open ranges whose lengths differ by at most 1.

    Longer ones come first. Raises BadOptions when there are more workers than layers.
    """
    if worker_count > layer_count:
        raise BadOptions(
            f"{layer_count} layers cannot be split into {worker_count} parts: "
            f"ask for {layer_count} or fewer"
        )
    length, longer_count = divmod(layer_count, worker_count)
    ranges: list[tuple[int, int]] = []
    start = 0
    for index in range(worker_count):
        stop = start + length + (1 if index < longer_count else 0)
        ranges.append((start, stop))
        start = stop
    return ranges


def parse_shards(text: str) -> tuple[tuple[int, int], ...]:
    """ "0-3,4-5", first and last layer of each worker, as half-open ranges. Raises BadOptions."""
    ranges = []
    for part in text.split(","):
        found = _SHARD_RANGE.fullmatch(part.strip())
        if found is None or int(found[2]) < int(found[1]):
            raise BadOptions(
                "--shards takes the first and last layer of each worker, as in 0-3,4-5: "
                f"not {part!r}"
            )
        ranges.append((int(found[1]), int(found[2]) + 1))
    return tuple(ranges)


def worker_loads(
    models: Sequence[LocalModel],
    worker_count: int,
    is_split: bool,
    shards: Sequence[tuple[int, int]] = (),
    whole: str = "",
) -> list[str]:
    """What each worker holds, as its LOAD setting: `name@0:3,other@0:2`, or names when unsplit.

    whole: a model that is not divided with the others; every worker has all of it.
    """
    if not is_split and not shards:
        return [",".join(model.name for model in models)] * worker_count
    cut = {
        model.name: _checked_shards(model, shards)
        if shards
        else layer_ranges(model.layer_count, worker_count)
        for model in models
        if model.name != whole
    }
    undivided = [model.name for model in models if model.name == whole]
    return [
        ",".join(
            [f"{name}@{ranges[index][0]}:{ranges[index][1]}" for name, ranges in cut.items()]
            + undivided
        )
        for index in range(worker_count)
    ]


def _checked_shards(model: LocalModel, shards: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges, if they hold every layer of the model and nothing else. Raises BadOptions."""
    beyond = [f"{start}-{stop - 1}" for start, stop in shards if stop > model.layer_count]
    held = {layer for start, stop in shards for layer in range(start, stop)}
    missing = [layer for layer in range(model.layer_count) if layer not in held]
    if beyond or missing:
        problem = f"there is no {beyond[0]}" if beyond else f"nobody would hold layer {missing[0]}"
        raise BadOptions(
            f"{model.name} has layers 0-{model.layer_count - 1}, and {problem}: "
            "give --shards that hold all of them"
        )
    return list(shards)


def check(options: UpOptions) -> None:
    """Raises BadOptions for options that contradict each other."""
    names = [model.name for model in options.models]
    if not names:
        raise BadOptions("no model to serve: name a folder or a GGUF file with --model")
    if len(set(names)) != len(names):
        raise BadOptions(f"two models have the same name: {', '.join(sorted(names))}")
    for name in names:
        if any(character in name for character in "@,:") or name != name.strip():
            raise BadOptions(f"a model's name may not hold '@', ',' or ':': {name}")
    ways = {"--split": options.is_split, "--shards": options.shards, "--auto": options.is_auto}
    given = [name for name, value in ways.items() if value]
    if len(given) > 1:
        raise BadOptions(f"{' and '.join(given)} each say who holds what: give one of them")
    if options.shards and options.worker_count != len(options.shards):
        raise BadOptions(
            f"--shards names {len(options.shards)} workers and --workers {options.worker_count}: "
            "leave --workers out"
        )
    if options.worker_count < 1:
        raise BadOptions("--workers must be at least 1")
    if options.drafter and not options.has_drafter:
        raise BadOptions("--drafter and --no-drafter contradict each other: give one of them")
    if options.drafter and not options.heavyweight:
        raise BadOptions(
            f"{options.drafter} would take over from its own drafts: name another model with "
            "--model, or another drafter with --drafter"
        )


def nats_config(port: int, token: str) -> str:
    """The broker's config file: loopback only, nobody without the token."""
    return (
        f'listen: "{HOST}:{port}"\n'
        f"authorization {{ token: {json.dumps(token)} }}\n"
        "max_payload: 1MB\n"
    )


def redis_config(redis: OwnRedis, folder: Path) -> str:
    """The server's config file: loopback only, nobody without the password, a log of every write.

    What it keeps expires, so when its memory is full the least used of that goes first.
    """
    return (
        f"bind {HOST}\n"
        f"port {redis.port}\n"
        f'requirepass "{redis.password}"\n'
        f"dir {json.dumps(str(folder))}\n"
        'save ""\n'
        "appendonly yes\n"
        "appendfsync everysec\n"
        f"maxmemory {_REDIS_MEMORY}\n"
        "maxmemory-policy volatile-lru\n"
    )


def plan_fleet(
    options: UpOptions,
    ports: Ports,
    nats_program: Path,
    redis: RedisPlan | None = None,
    cascade: CascadePlan | None = None,
) -> Fleet:
    """Every process with its settings. Raises BadOptions."""
    redis = redis or RedisPlan()
    cascade = cascade or plan_cascade(options.drafter, options.heavyweight, lambda *_: None)
    check(options)
    draft = _Draft(options, ports)
    router_address = f"{HOST}:{ports.router}"
    store_address = f"{HOST}:{ports.shard_store}"
    # What is not loaded from the start is placed by the router when it is asked for.
    wanted = () if options.is_auto else options.models
    loads = worker_loads(
        wanted, options.worker_count, options.is_split, options.shards, options.drafter
    )
    cores = max(1, options.core_count // options.worker_count)
    return Fleet(
        nats=ProcessSpec(
            name="nats",
            argv=(str(nats_program), "-c", str(options.run_dir / "nats.conf")),
            ready_port=ports.nats,
            # The broker's lines of information are 8 at a start and 3 at a stop.
            quiet_mark="" if options.verbosity else "[INF]",
        ),
        redis=None if redis.own is None else _redis_spec(options, redis.own),
        shard_store=draft.service(
            "shard-store",
            {"LISTEN_ADDRESS": store_address, "IMPORT_ROOTS": _import_roots(options.models)},
        ),
        router=draft.service(
            "router", {"LISTEN_ADDRESS": router_address}, others=_told_of(redis.router_url)
        ),
        drafter=draft.drafter(redis, cascade) if options.has_drafter else None,
        workers=tuple(
            draft.service(
                "worker-gpu",
                {
                    "LOAD": load,
                    "NODE_ID": f"worker-{index}",
                    "SHARD_STORE_ADDRESS": store_address,
                    "SHARED_BLOB_DIR": str(options.data_dir / "blobs"),
                    "CORES": str(cores),
                },
                name=f"worker-{index}",
                ready_timeout_s=300.0,
                group="workers",
            )
            for index, load in enumerate(loads, start=1)
        ),
        gateway=draft.service(
            "gateway",
            {
                "LISTEN_HOST": HOST,
                "LISTEN_PORT": str(options.port),
                "ROUTER_ADDRESS": router_address,
                "SHARD_STORE_ADDRESS": store_address,
                **(draft.told_of_drafter(cascade) if options.has_drafter else {}),
            },
            others=_told_of(redis.gateway_url),
        ),
    )


def _told_of(redis_url: str) -> dict[str, str]:
    return {"REDIS_URL": redis_url} if redis_url else {}


def _redis_spec(options: UpOptions, redis: OwnRedis) -> ProcessSpec:
    return ProcessSpec(
        name="redis",
        argv=(str(redis.program), str(options.run_dir / "redis.conf")),
        ready_port=redis.port,
        # Every line has a time of day. Its releases do not agree on what is a warning.
        quiet_mark="" if options.verbosity else ":",
    )


def _import_roots(models: Sequence[LocalModel]) -> str:
    """The folders that models lie in, as the JSON list that settings read."""
    return json.dumps(sorted({str(model.path.parent) for model in models}))


@dataclass(frozen=True)
class _Draft:
    """What all services share."""

    options: UpOptions
    ports: Ports
    shared: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        level = _LOG_LEVELS[min(self.options.verbosity, len(_LOG_LEVELS) - 1)]
        shared = {
            "SHOAL_DATA_DIR": str(self.options.data_dir),
            "SHOAL_FLEET_TOKEN_FILE": str(self.options.token_file),
            "SHOAL_NATS_URL": f"nats://{HOST}:{self.ports.nats}",
            "SHOAL_LOG_LEVEL": level,
            "SHOAL_LOG_FORMAT": "text",
            "PYTHONUNBUFFERED": "1",
        }
        object.__setattr__(self, "shared", shared)

    def drafter(self, redis: RedisPlan, cascade: CascadePlan) -> ProcessSpec:
        return self.service(
            "entropy-drafter",
            {
                "LISTEN_ADDRESS": f"{HOST}:{self.ports.drafter}",
                "ROUTER_ADDRESS": f"{HOST}:{self.ports.router}",
                **cascade.drafter_settings,
            },
            others=_told_of(redis.drafter_url),
        )

    def told_of_drafter(self, cascade: CascadePlan) -> dict[str, str]:
        """What the gateway is told of it."""
        address = f"{HOST}:{self.ports.drafter}"
        return {"DRAFTER_ADDRESS": address, **cascade.gateway_settings}

    def service(
        self,
        service: str,
        own: Mapping[str, str],
        name: str | None = None,
        ready_timeout_s: float = 60.0,
        group: str = "",
        others: Mapping[str, str] | None = None,
    ) -> ProcessSpec:
        """A service of ours; `own` holds its settings without the prefix, `others` variables."""
        name = name or service
        module = service.replace("-", "_")
        ready_file = self.options.run_dir / f"{name}.ready.json"
        prefix = f"SHOAL_{module.upper()}_"
        config = ("--config", str(self.options.config)) if self.options.config else ()
        settings = {prefix + key: value for key, value in own.items()}
        return ProcessSpec(
            name=name,
            argv=(sys.executable, "-m", f"shoal_{module}", *config),
            settings={
                **self.shared,
                **settings,
                **(others or {}),
                f"{prefix}READY_FILE": str(ready_file),
            },
            ready_file=ready_file,
            ready_timeout_s=ready_timeout_s,
            group=group,
        )
