"""What is counted of the cascade, behind a Protocol, so that nothing need be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shoal_common.metrics import DURATION_BUCKETS_S
from shoal_gateway.task import Answerer

# Whatever else is heard as a reason counts as `other`: labels come from a closed set.
REASONS = frozenset(
    [
        "window", "early_exit", "end", "empty", "unknown", "timeout", "error", "overloaded",
        "tool_call", "images", "raw_prompt", "logprobs", "adapter", "logit_bias", "continuation",
        "privacy", "tools", "format", "thinking", "no_drafter", "unreachable", "timeout_order",
        "prompt_too_long", "refused", "not_ready",
    ]
)  # fmt: skip


class CascadeRecorder(Protocol):
    def answered(self, by: Answerer) -> None: ...
    def escalated(self, reason: str) -> None:
        """A draft was begun, and the heavyweight has a part in the answer."""
        ...

    def bypassed(self, reason: str) -> None:
        """The heavyweight answers without a draft."""
        ...

    def wasted(self, token_count: int) -> None:
        """Draft tokens that no client saw."""
        ...

    def speculation(self, outcome: str) -> None:
        """started, used or cancelled."""
        ...

    def took_over(self, head_start_s: float) -> None:
        """head_start_s: how long the heavyweight had run when it was wanted."""
        ...

    def delayed(self, latency_s: float) -> None:
        """latency_s: from the verdict to the first content of the heavyweight."""
        ...

    def kept(self, layer: str) -> None:
        """A kept answer was given again."""
        ...

    def saved(self, by: str, token_count: int) -> None:
        """Completion tokens that the heavyweight did not compute. by: cache or drafter."""
        ...

    def late(self, verdict: str) -> None:
        """A doubt came when tokens had left that let the draft stand."""
        ...

    def audited(self, is_escalated: bool, is_agreed: bool) -> None:
        """Both models answered in full."""
        ...

    def audit_dropped(self, why: str) -> None:
        """why: full or failed."""
        ...

    def dropped(self, work: str) -> None:
        """Work behind an answer for which there was no room."""
        ...


class NullRecorder:
    """Counts nothing."""

    def answered(self, by: Answerer) -> None: ...
    def escalated(self, reason: str) -> None: ...
    def bypassed(self, reason: str) -> None: ...
    def wasted(self, token_count: int) -> None: ...
    def speculation(self, outcome: str) -> None: ...
    def took_over(self, head_start_s: float) -> None: ...
    def delayed(self, latency_s: float) -> None: ...
    def kept(self, layer: str) -> None: ...
    def saved(self, by: str, token_count: int) -> None: ...
    def late(self, verdict: str) -> None: ...
    def audited(self, is_escalated: bool, is_agreed: bool) -> None: ...
    def audit_dropped(self, why: str) -> None: ...
    def dropped(self, work: str) -> None: ...


class PrometheusRecorder:
    """All metric objects of the cascade."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"shoal_gateway_cascade_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str) -> Histogram:
            name = f"shoal_gateway_cascade_{name}"
            return Histogram(name, text, buckets=DURATION_BUCKETS_S, registry=registry)

        self._answers = counter("answers_total", "Answers by who gave them.", "by")
        self._escalations = counter(
            "escalations_total", "Drafts that the heavyweight had to follow, by reason.", "reason"
        )
        self._bypasses = counter(
            "bypasses_total", "Requests that went straight to the heavyweight, by reason.", "reason"
        )
        self._wasted = counter("draft_tokens_wasted_total", "Draft tokens that no client saw.")
        self._speculations = counter(
            "speculations_total", "Heavyweights begun beside a draft, by what became of them.",
            "outcome",
        )  # fmt: skip
        self._head_start = histogram(
            "head_start_seconds", "How long the heavyweight had run when it was wanted."
        )
        self._latency = histogram(
            "escalation_latency_seconds",
            "From the verdict to the first content of the heavyweight.",
        )
        self._kept = counter("cache_answers_total", "Kept answers given again.", "layer")
        self._saved = counter(
            "heavyweight_tokens_saved_total",
            "Completion tokens that the heavyweight did not compute.",
            "by",
        )
        self._late = counter(
            "late_doubts_total", "Doubts that came when the draft's tokens had left.", "verdict"
        )
        self._dropped = counter(
            "background_dropped_total", "Work behind answers for which there was no room.", "work"
        )
        self._audits = _Audits(registry)

    def answered(self, by: Answerer) -> None:
        self._answers.labels(by).inc()

    def escalated(self, reason: str) -> None:
        self._escalations.labels(_known(reason)).inc()

    def bypassed(self, reason: str) -> None:
        self._bypasses.labels(_known(reason)).inc()

    def wasted(self, token_count: int) -> None:
        self._wasted.inc(token_count)

    def speculation(self, outcome: str) -> None:
        self._speculations.labels(outcome).inc()

    def took_over(self, head_start_s: float) -> None:
        self._head_start.observe(head_start_s)

    def delayed(self, latency_s: float) -> None:
        self._latency.observe(latency_s)

    def kept(self, layer: str) -> None:
        self._kept.labels(layer).inc()

    def saved(self, by: str, token_count: int) -> None:
        self._saved.labels(by).inc(token_count)

    def late(self, verdict: str) -> None:
        self._late.labels(verdict).inc()

    def audited(self, is_escalated: bool, is_agreed: bool) -> None:
        self._audits.add(is_escalated, is_agreed)

    def audit_dropped(self, why: str) -> None:
        self._audits.dropped.labels(why).inc()

    def dropped(self, work: str) -> None:
        self._dropped.labels(work).inc()


class _Audits:
    """Requests that both models answered, and what follows from them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "shoal_gateway_cascade"
        self.dropped = Counter(
            f"{prefix}_audits_dropped_total",
            "Audits that were not made: no room, or a model failed.",
            ("why",),
            registry=registry,
        )
        self._count = Counter(
            f"{prefix}_audits_total",
            "Audited requests: whether they were escalated, and whether both models agree.",
            ("escalated", "agrees"),
            registry=registry,
        )
        self._seen = {(is_escalated, agrees): 0 for is_escalated in (0, 1) for agrees in (0, 1)}
        self._share(
            registry,
            f"{prefix}_escalation_precision_ratio",
            "Share of the audited escalations on which the models disagree; NaN before the first.",
            lambda: self._ratio(self._seen[1, 0], self._seen[1, 1]),
        )
        self._share(
            registry,
            f"{prefix}_escalation_recall_ratio",
            "Share of the audited disagreements that were escalated; NaN before the first.",
            lambda: self._ratio(self._seen[1, 0], self._seen[0, 0]),
        )

    def add(self, is_escalated: bool, is_agreed: bool) -> None:
        self._seen[int(is_escalated), int(is_agreed)] += 1
        self._count.labels(_word(is_escalated), _word(is_agreed)).inc()

    @staticmethod
    def _share(
        registry: CollectorRegistry, name: str, text: str, ratio: Callable[[], float]
    ) -> None:
        Gauge(name, text, registry=registry).set_function(ratio)

    @staticmethod
    def _ratio(part: int, rest: int) -> float:
        return part / (part + rest) if part + rest else float("nan")


def recorder_for(registry: CollectorRegistry, is_enabled: bool) -> CascadeRecorder:
    """Nothing is registered where nothing is counted."""
    return PrometheusRecorder(registry) if is_enabled else NullRecorder()


def _known(reason: str) -> str:
    return reason if reason in REASONS else "other"


def _word(is_true: bool) -> str:
    return "yes" if is_true else "no"
