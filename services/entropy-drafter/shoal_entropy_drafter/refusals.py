"""Settings that cannot be used, in one form of words, and the keys that upstreams are shown."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import SecretStr

from shoal_common.log import redact
from shoal_common.settings import ConfigurationError, options
from shoal_entropy_drafter.settings import Settings

_OPENAI_HOST = "api.openai.com"


def named(option: str) -> str:
    """An option by both its names: the key in config.toml, and the variable."""
    variable = next(each.variable for each in options(Settings) if each.name == option)
    return f"{option} ({variable})"


def refusal(option: str, problem: str) -> ConfigurationError:
    """An option that cannot be used, by both its names."""
    return ConfigurationError([f"{named(option)}: {problem}"])


def check_url(option: str, url: str) -> None:
    """Raise ConfigurationError where `url` names no HTTP server."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise refusal(option, f"'{redact(url)}' is not an address: write http://host:port")


def drafter_key(settings: Settings) -> str:
    """The drafting upstream's key, "" where it wants none. Raises ConfigurationError."""
    path = settings.drafter_api_key_file
    if settings.drafter_api_key.get_secret_value() or path is None:
        return _key(settings, "drafter_api_key", settings.drafter_base_url)
    option = "drafter_api_key_file"
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as err:
        raise refusal(option, f"{path} cannot be read: {type(err).__name__}") from err
    if not key:
        raise refusal(option, f"{path} is empty: write the key into it")
    return _checked(option, key)


def embedding_key(settings: Settings) -> str:
    """The embedding upstream's key, "" where it wants none. Raises ConfigurationError."""
    return _key(settings, "embedding_api_key", settings.embedding_base_url)


def _key(settings: Settings, option: str, base_url: str) -> str:
    """The option's, else OpenAI's where the upstream is OpenAI: nobody else is shown that one."""
    own: SecretStr = getattr(settings, option)
    if key := own.get_secret_value():
        return _checked(option, key)
    parts = urlsplit(base_url)
    if parts.scheme != "https" or parts.hostname != _OPENAI_HOST:
        return ""
    return _checked("openai_api_key", settings.openai_api_key.get_secret_value())


def _checked(option: str, key: str) -> str:
    if not key.isascii() or not key.isprintable():
        raise refusal(option, "holds a character that no header may: copy the key again")
    return key
