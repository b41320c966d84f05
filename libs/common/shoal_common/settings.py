"""How a service gets its settings: flags, environment, `config.toml`, defaults, in that order.

Owns the names of variables, flags and sections, and the one place that reads the environment for
them. Does not know any service's fields: each service declares them in its own `settings.py`:

    class Settings(ServiceSettings, service="router"):
        heartbeat_timeout_s: float = 3.0
        \"\"\"A worker silent for longer is left out of new plans.\"\"\"

That class reads `SHOAL_ROUTER_HEARTBEAT_TIMEOUT_S`, `--heartbeat-timeout-s` and the key
`heartbeat_timeout_s` of section `[router]`. Building it directly reads nothing but the arguments.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, get_args, get_origin

from dotenv import dotenv_values
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from shoal_common.errors import ShoalError
from shoal_common.log import redact

SERVICES = (
    "gateway",
    "router",
    "worker_gpu",
    "shard_store",
    "entropy_drafter",
    "credit_ledger",
    "p2p_bridge",
)
"""Names as they stand in variables and sections; folders write them with a hyphen."""

_PREFIX = "SHOAL_"
_FOREIGN_SECTIONS = (*SERVICES, "cli")
CONFIG_VARIABLE = "SHOAL_CONFIG"
# What Kubernetes injects for a Service called shoal-<anything> in the same namespace.
_SERVICE_LINK = re.compile(
    r"SHOAL(_[A-Z0-9]+)*_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?"
    r"|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_LINK_PORT = re.compile(r"(tcp|udp|sctp)://\S+:\d+")

ExpandedPath = Annotated[Path, AfterValidator(Path.expanduser)]
"""A path in which a leading `~` is the user's home."""


class ConfigurationError(ShoalError):
    """Settings that cannot be used; the message names each one and where it came from."""

    reason = "CONFIGURATION"

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class EnvName:
    """In `Annotated`: the variable is called `name`, not prefix plus field name."""

    name: str


@dataclass(frozen=True)
class AlsoReads:
    """In `Annotated`: a variable of wider use that counts where ours is not set."""

    name: str


class FleetSettings(BaseModel):
    """What every service of a fleet has in common: section `[fleet]`, prefix `SHOAL_`."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )

    data_dir: ExpandedPath = Path("~/.local/share/shoal")
    """Folder of everything that outlives a process: models, keys, databases, `config.toml`."""
    token: Annotated[SecretStr, EnvName("SHOAL_FLEET_TOKEN")] = SecretStr("")
    """Secret that the services of one fleet show each other; empty turns the check off."""
    token_file: Annotated[ExpandedPath | None, EnvName("SHOAL_FLEET_TOKEN_FILE")] = None
    """File with the fleet token, read when `token` is empty."""
    nats_url: Annotated[str, AlsoReads("NATS_URL")] = "nats://127.0.0.1:4222"
    """Address of the NATS server that carries heartbeats and events."""
    log_level: Literal["silent", "error", "warning", "warn", "info", "debug", "trace"] = "info"
    """Least severe level that is written; `trace` means `debug`."""
    log_format: Literal["auto", "text", "json", "pretty"] = "auto"
    """`json` lines, `text`, or `auto`: text on a terminal, JSON elsewhere; `pretty` means text."""
    region: str = Field(default="", max_length=64)
    """Where this machine is, for people and for placement, for example `DE`."""

    def secret_token(self) -> str:
        """The fleet token, from `token` or else from `token_file`; "" when there is none.

        Raises ConfigurationError when the file cannot be read or is empty.
        """
        if value := self.token.get_secret_value():
            return value
        if self.token_file is None:
            return ""
        try:
            value = self.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as err:
            raise ConfigurationError(
                [f"fleet token file {self.token_file} cannot be read: {err}"]
            ) from err
        if not value:
            raise ConfigurationError([f"fleet token file {self.token_file} is empty"])
        return value


class ServiceSettings(BaseSettings):
    """Base of every service's settings. Frozen; unknown names are refused."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )
    service: ClassVar[str] = ""
    without_effect: ClassVar[Mapping[str, str]] = {}
    """Options of other systems by name, and what does their work here: accepted, never used."""

    listen_address: str = "127.0.0.1:0"
    """Address of the gRPC server, `host:port` or `unix:/path`; port 0 takes a free one."""
    side_address: str = "127.0.0.1:0"
    """Address of `/healthz`, `/readyz` and `/metrics`; empty turns them off."""
    drain_timeout_s: float = Field(default=10.0, ge=0, le=3600)
    """Seconds that running requests get to end after a stop was asked for."""
    ready_file: ExpandedPath | None = None
    """File that receives pid and bound addresses as JSON once the service is up."""
    fleet: FleetSettings = Field(default_factory=FleetSettings)
    """What the whole fleet shares."""
    _ignored: tuple[str, ...] = ()

    def log_ignored(self) -> None:
        """One notice, once logs are set up, that names given options without effect, if any."""
        if self._ignored:
            replaced = {name: self.without_effect[name] for name in self._ignored}
            log.warning("options without effect", extra={"replaced_by": replaced})

    def __init_subclass__(cls, service: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if service:
            assert service in _FOREIGN_SECTIONS, f"unknown service {service}: add it to SERVICES"
            cls.service = service

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        shared = cls.model_fields.keys() & FleetSettings.model_fields.keys()
        assert not shared, f"options of the fleet declared again: {', '.join(sorted(shared))}"
        used = cls.model_fields.keys() & cls.without_effect.keys()
        assert not used, f"options with a field have an effect: {', '.join(sorted(used))}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only arguments: `load` has merged the sources and knows where each value came from."""
        return (init_settings,)


S = TypeVar("S", bound=ServiceSettings)
log = logging.getLogger(__name__)


class Option(NamedTuple):
    """One setting as people see it."""

    section: str
    name: str
    variable: str
    also_reads: tuple[str, ...]
    info: FieldInfo

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def is_secret(self) -> bool:
        return SecretStr in _plain_types(self.info.annotation)


def options(cls: type[ServiceSettings]) -> list[Option]:
    """Every option of a service, the shared ones of the fleet last."""
    own = [_option(cls.service, n, f) for n, f in cls.model_fields.items() if n != "fleet"]
    return own + [_option("fleet", n, f) for n, f in FleetSettings.model_fields.items()]


def variable_of(service: str, name: str) -> str:
    """The environment variable of a service's own option."""
    return f"{_PREFIX}{service.upper()}_{name.upper()}"


def load(
    cls: type[S], argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None
) -> S:
    """The settings of a service process; ends the process for `--help` and for wrong settings.

    `--print-settings` prints them, secrets hidden, and exits 0. A wrong setting prints what is
    wrong and where it stands, and exits 2.
    """
    parser = _parser(cls)
    arguments = vars(parser.parse_args(sys.argv[1:] if argv is None else argv))
    is_print = arguments.pop("print_settings")
    try:
        settings, origins = _merge(cls, arguments, os.environ if environ is None else environ)
    except ConfigurationError as err:
        parser.exit(2, "".join(f"{parser.prog}: {problem}\n" for problem in err.problems))
    if is_print:
        sys.stdout.write(render(settings, origins))
        parser.exit(0)
    return settings


def read(cls: type[S], arguments: Mapping[str, str], environ: Mapping[str, str]) -> S:
    """The settings from given flags (by field name) and variables; raises ConfigurationError."""
    return _merge(cls, arguments, environ)[0]


def render(settings: ServiceSettings, origins: Mapping[tuple[str, str], str]) -> str:
    """The settings as a `config.toml`, secrets hidden, each with where it came from."""
    lines: list[str] = []
    section = ""
    for option in options(type(settings)):
        if option.section != section:
            section = option.section
            lines += ([""] if lines else []) + [f"[{section}]"]
        owner = settings.fleet if section == "fleet" else settings
        value = getattr(owner, option.name)
        origin = origins.get((section, option.name), "default")
        if value is None:
            lines.append(f"# {option.name} is not set")
        else:
            lines.append(f"{option.name} = {to_toml(value)}  # {origin}")
    for name in settings._ignored:
        lines.append(f"# {name} has no effect: replaced by {settings.without_effect[name]}")
    return "\n".join(lines) + "\n"


def _option(section: str, name: str, info: FieldInfo) -> Option:
    variable = _PREFIX + name.upper() if section == "fleet" else variable_of(section, name)
    for mark in info.metadata:
        if isinstance(mark, EnvName):
            variable = mark.name
    also = tuple(mark.name for mark in info.metadata if isinstance(mark, AlsoReads))
    return Option(section, name, variable, also, info)


def _parser(cls: type[ServiceSettings]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"shoal-{cls.service.replace('_', '-')}",
        description="Flags win over the environment, the environment over config.toml.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="PATH", help="use this config.toml")
    parser.add_argument(
        "--print-settings",
        action="store_true",
        default=False,
        help="print the settings in effect, secrets hidden, and exit",
    )
    for option in options(cls):
        # A secret on a command line is readable by every user of the machine.
        if option.is_secret:
            continue
        help_text = f"{option.info.description or ''} [{option.variable}]".replace("%", "%%")
        is_bool = bool in _plain_types(option.info.annotation)
        parser.add_argument(
            option.flag,
            dest=option.name,
            metavar="VALUE",
            nargs="?" if is_bool else None,
            const="true" if is_bool else None,
            help=help_text,
        )
    return parser


def _merge(
    cls: type[S], arguments: Mapping[str, str], environ: Mapping[str, str]
) -> tuple[S, dict[tuple[str, str], str]]:
    """Lay the sources over each other, then validate once."""
    known = options(cls)
    flags = {o.name: arguments[o.name] for o in known if o.name in arguments}
    environ = _with_dotenv(flags, environ)
    unused = {variable_of(cls.service, name): name for name in cls.without_effect}
    problems = list(_unknown_variables(cls.service, known, unused, environ))
    values: dict[str, dict[str, Any]] = {cls.service: {}, "fleet": {}}
    origins: dict[tuple[str, str], str] = {}

    def put(option: Option, value: object, origin: str) -> None:
        values[option.section][option.name] = value
        origins[option.section, option.name] = origin

    path, file_values = _read_file(_config_path(arguments, flags, environ), cls.service)
    problems += _unknown_keys(path, file_values, known, {(cls.service, n) for n in unused.values()})
    for option in known:
        section = file_values.get(option.section, {})
        if option.name in section:
            put(option, section[option.name], str(path))
        for variable in (*option.also_reads, option.variable):
            if variable in environ and not _is_service_link(variable, environ[variable]):
                put(option, _decode(option.info, environ[variable]), variable)
        if option.name in flags:
            put(option, _decode(option.info, flags[option.name]), option.flag)
    if problems:
        raise ConfigurationError(problems)
    settings = _validated(cls, values, origins)
    in_file = file_values.get(cls.service, {})
    settings._ignored = tuple(n for v, n in unused.items() if v in environ or n in in_file)
    return settings, origins


def _validated(
    cls: type[S], values: dict[str, dict[str, Any]], origins: Mapping[tuple[str, str], str]
) -> S:
    try:
        return cls(**values[cls.service], fleet=values["fleet"])  # type: ignore[arg-type]
    except ValidationError as err:
        problems = []
        # The input is left out: it may be a secret.
        for error in err.errors(include_input=False, include_url=False, include_context=False):
            where = [str(part) for part in error["loc"]]
            section = "fleet" if where[:1] == ["fleet"] else cls.service
            if section == "fleet":
                where = where[1:]
            name = where[0] if where else "settings"
            origin = origins.get((section, name), f"[{section}]")
            problems.append(f"{name} (from {origin}): {error['msg']}")
        raise ConfigurationError(problems) from None


def _with_dotenv(flags: Mapping[str, str], environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment with `.env` of the data folder and the working folder beneath it."""
    merged: dict[str, str] = {}
    for folder in (Path.cwd(), _data_dir(flags, environ)):
        try:
            found = dotenv_values(folder / ".env", interpolate=False)
        except (OSError, UnicodeDecodeError) as err:
            raise ConfigurationError([f"{folder / '.env'} cannot be read: {err}"]) from err
        merged.update({name: value for name, value in found.items() if value is not None})
    return {**merged, **environ}


def _data_dir(flags: Mapping[str, str], environ: Mapping[str, str]) -> Path:
    text = flags.get("data_dir") or environ.get("SHOAL_DATA_DIR")
    return Path(text).expanduser() if text else FleetSettings().data_dir


def _config_path(
    arguments: Mapping[str, str], flags: Mapping[str, str], environ: Mapping[str, str]
) -> Path:
    """The file to read; one that was named must exist, the default one may be absent."""
    named = arguments.get("config") or environ.get(CONFIG_VARIABLE)
    if not named:
        return _data_dir(flags, environ) / "config.toml"
    path = Path(named).expanduser()
    if not path.is_file():
        raise ConfigurationError([f"configuration file {path} does not exist"])
    return path


def _read_file(path: Path, service: str) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Our sections of the file, by section. Other services' sections are theirs to check."""
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except FileNotFoundError:
        return path, {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise ConfigurationError([f"configuration file {path} cannot be read: {err}"]) from err
    sections = {name.replace("-", "_"): table for name, table in content.items()}
    problems = [
        f"{path}: unknown section [{name}]; known: fleet, {', '.join(_FOREIGN_SECTIONS)}"
        for name in sections
        if name != "fleet" and name not in _FOREIGN_SECTIONS
    ]
    ours = {name: table for name, table in sections.items() if name in ("fleet", service)}
    problems += [
        f"{path}: {name} must be a section" for name, t in ours.items() if not isinstance(t, dict)
    ]
    if problems:
        raise ConfigurationError(problems)
    return path, ours


def _unknown_keys(
    path: Path,
    file_values: Mapping[str, Mapping[str, Any]],
    known: Sequence[Option],
    unused: Set[tuple[str, str]],
) -> Iterator[str]:
    names = {(option.section, option.name) for option in known} | unused
    for section, table in file_values.items():
        for key in table:
            if (section, key) not in names:
                yield f"{path}: unknown option '{key}' in section [{section}]"


def _unknown_variables(
    service: str, known: Sequence[Option], unused: Iterable[str], environ: Mapping[str, str]
) -> Iterator[str]:
    """Variables with our prefix that nobody reads: a misspelt setting must not pass silently."""
    names = {option.variable for option in known} | {CONFIG_VARIABLE, *unused}
    others = tuple(f"{_PREFIX}{s.upper()}_" for s in _FOREIGN_SECTIONS if s != service)
    for name in sorted(environ):
        if not name.startswith(_PREFIX) or name in names or name.startswith(others):
            continue
        if not _is_service_link(name, environ[name]):
            yield f"unknown environment variable {name}: see --help for the names"


def _is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes put this variable there to name a Service."""
    if _SERVICE_LINK.fullmatch(name):
        return True
    is_port = name.startswith(_PREFIX) and name.endswith("_PORT")
    return is_port and _SERVICE_LINK_PORT.fullmatch(value) is not None


def _plain_types(annotation: Any) -> set[Any]:
    """The types of a union, origins of generics; one type gives itself."""
    if get_origin(annotation) is Annotated:
        return _plain_types(get_args(annotation)[0])
    origin = get_origin(annotation)
    if origin is None:
        return {annotation}
    if origin in (list, tuple, dict, set, frozenset, Literal):
        return {origin}
    return {plain for part in get_args(annotation) for plain in _plain_types(part)}


def _decode(info: FieldInfo, text: str) -> object:
    """What a variable or flag says: JSON or a comma list for collections, else the text itself."""
    types = _plain_types(info.annotation)
    if not text and type(None) in types:
        return None
    is_list = bool(types & {list, tuple, set, frozenset})
    is_table = dict in types or any(isinstance(t, type) and issubclass(t, BaseModel) for t in types)
    if text[:1] in ("[", "{") and (is_list or is_table):
        try:
            return json.loads(text)
        except ValueError:
            return text
    if is_list:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def to_toml(value: object) -> str:
    """One value in the words of TOML, secrets hidden."""
    if isinstance(value, SecretStr):
        return '"[redacted]"' if value.get_secret_value() else '""'
    if isinstance(value, BaseModel):
        return to_toml(dict(value))
    if isinstance(value, Mapping):
        items = (f"{json.dumps(str(k))} = {to_toml(v)}" for k, v in value.items() if v is not None)
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        return "[" + ", ".join(to_toml(v) for v in value) + "]"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    return json.dumps(redact(str(value)), ensure_ascii=False)
