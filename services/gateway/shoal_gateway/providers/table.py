"""The twelve providers: which model names are whose, and where they live. Pure.

A model's name picks its provider. Names are of two kinds. A *family* (`gpt-`, `claude-`, `kimi-`)
is how the provider itself begins its models' names, and goes upstream as it is. A *host prefix*
(`nim-`, `groq-`, `together-`) only says who is to answer, and is taken off:
`nim-meta/llama-3.1-8b-instruct` asks NVIDIA for `meta/llama-3.1-8b-instruct`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

WireKind = Literal["openai", "anthropic"]

# Knobs that OpenAI's own API does not know; each provider lists those it takes.
OPEN_KNOBS = frozenset(["top_k", "min_p", "repetition_penalty"])


@dataclass(frozen=True)
class Provider:
    """Public facts of one provider. `refused` are fields of OpenAI's wire it answers 4xx to."""

    name: str
    label: str
    base_url: str
    key_variables: tuple[str, ...]
    families: tuple[str, ...] = ()
    host_prefix: str = ""
    # What upstream puts before a name without a slash, once the host prefix is off.
    upstream_prefix: str = ""
    kind: WireKind = "openai"
    probe_model: str = ""
    knobs: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    max_tokens_field: str = "max_tokens"
    # Wants the thoughts before earlier tool calls back.
    wants_reasoning: bool = False
    # Takes whatever vLLM, SGLang and llama.cpp take.
    is_open: bool = False


@dataclass(frozen=True)
class Endpoint:
    """Where one model's requests go. `ctx_size` 0: unknown."""

    provider: Provider
    base_url: str
    model: str
    key: str = field(default="", repr=False)
    ctx_size: int = 0

    @property
    def name(self) -> str:
        return self.provider.name


PROVIDERS = (
    Provider(
        "openai", "OpenAI", "https://api.openai.com/v1", ("OPENAI_API_KEY",),
        families=("gpt-", "o1", "o3", "o4", "chatgpt-", "text-embedding-"),
        probe_model="gpt-4o-mini", max_tokens_field="max_completion_tokens",
    ),
    Provider(
        "anthropic", "Anthropic", "https://api.anthropic.com/v1", ("ANTHROPIC_API_KEY",),
        families=("claude-",), kind="anthropic", probe_model="claude-haiku-4-5",
    ),
    Provider(
        "deepseek", "DeepSeek", "https://api.deepseek.com/v1", ("DEEPSEEK_API_KEY",),
        families=("deepseek-",), probe_model="deepseek-chat", wants_reasoning=True,
    ),
    Provider(
        "mistral", "Mistral", "https://api.mistral.ai/v1", ("MISTRAL_API_KEY",),
        families=("mistral-", "codestral-", "pixtral-"), probe_model="mistral-small-latest",
        # It calls the seed `random_seed`, and reports usage without being asked.
        refused=frozenset(
            ["stream_options", "seed", "logit_bias", "logprobs", "top_logprobs",
             "reasoning_effort"]
        ),
    ),
    Provider(
        "groq", "Groq", "https://api.groq.com/openai/v1", ("GROQ_API_KEY",),
        families=("llama-",), host_prefix="groq-", probe_model="llama-3.1-8b-instant",
        refused=frozenset(["logit_bias", "logprobs", "top_logprobs"]),
    ),
    Provider(
        "nvidia", "NVIDIA NIM", "https://integrate.api.nvidia.com/v1",
        ("NVIDIA_API_KEY", "NVIDIA_NIM_API_KEY"),
        host_prefix="nim-", probe_model="meta/llama-3.1-8b-instruct",
    ),
    Provider(
        "cerebras", "Cerebras", "https://api.cerebras.ai/v1", ("CEREBRAS_API_KEY",),
        host_prefix="cerebras-", probe_model="llama3.1-8b",
        refused=frozenset(["logit_bias", "frequency_penalty", "presence_penalty"]),
    ),
    Provider(
        "sambanova", "SambaNova", "https://api.sambanova.ai/v1", ("SAMBANOVA_API_KEY",),
        host_prefix="samba-", probe_model="Meta-Llama-3.1-8B-Instruct",
        knobs=frozenset(["top_k"]),
    ),
    Provider(
        "fireworks", "Fireworks AI", "https://api.fireworks.ai/inference/v1",
        ("FIREWORKS_API_KEY",),
        families=("accounts/fireworks/",), host_prefix="fireworks-",
        upstream_prefix="accounts/fireworks/models/",
        probe_model="accounts/fireworks/models/llama-v3p1-8b-instruct", knobs=OPEN_KNOBS,
    ),
    Provider(
        "together", "Together AI", "https://api.together.xyz/v1", ("TOGETHER_API_KEY",),
        host_prefix="together-", probe_model="meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo",
        knobs=OPEN_KNOBS,
    ),
    Provider(
        "deepinfra", "DeepInfra", "https://api.deepinfra.com/v1/openai", ("DEEPINFRA_API_KEY",),
        host_prefix="deepinfra-", probe_model="meta-llama/Meta-Llama-3.1-8B-Instruct",
        knobs=OPEN_KNOBS,
    ),
    Provider(
        "moonshot", "Moonshot/Kimi", "https://api.moonshot.ai/v1", ("MOONSHOT_API_KEY",),
        families=("moonshot-", "kimi-"), probe_model="moonshot-v1-8k", wants_reasoning=True,
    ),
)  # fmt: skip
BY_NAME = {provider.name: provider for provider in PROVIDERS}


def open_provider(name: str, kind: WireKind = "openai") -> Provider:
    """One that the operator named: any base URL that speaks OpenAI's or Anthropic's wire."""
    return Provider(name, name, "", (), kind=kind, knobs=OPEN_KNOBS, is_open=kind == "openai")


@lru_cache(maxsize=1024)
def provider_of(model: str, providers: tuple[Provider, ...] = PROVIDERS) -> Provider | None:
    """Whose the name is by its beginning; None if nobody's."""
    for provider in providers:
        if provider.host_prefix and _begins(model, provider.host_prefix):
            return provider
        if any(_begins(model, family) for family in provider.families):
            return provider
    return None


def upstream_name(provider: Provider, model: str) -> str:
    """What the provider itself calls the model."""
    if not provider.host_prefix or not _begins(model, provider.host_prefix):
        return model
    bare = model[len(provider.host_prefix) :]
    return bare if "/" in bare else provider.upstream_prefix + bare


def public_name(provider: Provider, upstream: str) -> str | None:
    """The name that leads back to the provider's own model; None where none does."""
    for name in (upstream, provider.host_prefix + upstream):
        if provider_of(name) is provider and upstream_name(provider, name) == upstream:
            return name
    return None


def _begins(model: str, start: str) -> bool:
    """`o1` begins `o1` and `o1-mini`, not `o10`; others end in a dash or a slash themselves."""
    if start[-1] in "-/":
        return model.startswith(start) and len(model) > len(start)
    return model == start or model.startswith(f"{start}-")
