"""What can go wrong at the router, as leaves of `shoal_common.errors`.

ShoalError
├── InvalidRequest
│   ├── MalformedBeat         a beat that no worker of ours would send; counted and dropped
│   └── MalformedAnnouncement the same of a shard-store's word
├── Overloaded
│   └── QueueFull             more plans wait than the queue holds
├── DeadlineExceeded
│   └── WaitTooLong           a request whose time ends before its turn comes
└── Unavailable
    ├── RouterStarting        too young to say that a model does not exist
    ├── ModelLoading          engines are there, all still fetching or loading
    └── PlanUnavailable
        ├── LayersMissing     ranges that no ready worker holds
        ├── RangesDoNotJoin   every layer is held, but no ranges meet end to end
        ├── PrivacyUnsatisfied no pipeline keeps to what was asked for
        ├── NoOtherPipeline   the stages that were lost have no substitute
        └── LoadFailed        nobody holds it, and no worker could load it
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from shoal_common.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PlanUnavailable,
    Unavailable,
)


def ranges_text(ranges: Sequence[range]) -> str:
    """Half-open ranges as people write them: "0:3 and 5:6"."""
    return " and ".join(f"{layers.start}:{layers.stop}" for layers in ranges)


class MalformedBeat(InvalidRequest):
    """Bytes on a beat subject that are no valid beat."""


class MalformedAnnouncement(InvalidRequest):
    """Bytes on an announcement's subject that are no valid announcement."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"the announcement is refused: {problem}")


class QueueFull(Overloaded):
    """The bound on waiting plans is reached.

    queue_position: the place there would have been in the model's line.
    """

    def __init__(
        self, model: str, waiting_max: int, queue_position: int, retry_after_s: float
    ) -> None:
        super().__init__(
            f"all {waiting_max} places of the queue are taken; a request for model '{model}' would "
            f"be number {queue_position}: try again in {math.ceil(retry_after_s)} s"
        )
        self.queue_position = queue_position
        self.retry_after_s = retry_after_s


class WaitTooLong(DeadlineExceeded):
    """Nobody waits in vain."""

    @classmethod
    def over(cls, model: str, position: int, waited_s: float) -> WaitTooLong:
        """The time is up, or too short for one step."""
        return cls(
            f"the request's time was up after {waited_s:.1f} s at place {position} of the queue "
            f"for model '{model}': give it more time or try again later"
        )

    @classmethod
    def expected(cls, model: str, position: int, wait_s: float, left_s: float) -> WaitTooLong:
        """The time will be up long before."""
        return cls(
            f"about {wait_s:.0f} s of waiting for model '{model}' are expected at place {position} "
            f"of the queue, and the request has {left_s:.1f} s left: give it more time or try "
            "again later"
        )


class RouterStarting(Unavailable):
    """No beat has had the time to arrive."""

    def __init__(self, model: str, uptime_s: float) -> None:
        super().__init__(
            f"the router started {uptime_s:.1f} s ago and has not heard of model '{model}' yet: "
            "try again in a few seconds"
        )


class ModelLoading(Unavailable):
    """The model is on its way; `progress_percent` is that of its slowest engine."""

    def __init__(self, model: str, progress_percent: int) -> None:
        super().__init__(
            f"model '{model}' is loading ({progress_percent}% done): try again in a few seconds"
        )


class LayersMissing(PlanUnavailable):
    """Some layers are held by no ready worker."""

    def __init__(
        self, model: str, missing: Sequence[range], *, loading_percent: int | None
    ) -> None:
        loading = "" if loading_percent is None else f"; engines are loading ({loading_percent}%)"
        super().__init__(
            f"no ready worker holds layers {ranges_text(missing)} of '{model}'{loading}: "
            "start a worker with these layers or try again"
        )


class RangesDoNotJoin(PlanUnavailable):
    """Every layer is held, but by engines that do not go together: their blocks of KV differ in
    size, or stages may not use parts of what an engine holds."""

    def __init__(self, model: str, ranges: Sequence[range]) -> None:
        super().__init__(
            f"the layer ranges held of '{model}' ({ranges_text(ranges)}) do not join end to end: "
            "load ranges that meet"
        )


class NoOtherPipeline(PlanUnavailable):
    """All pipelines of the model lead through stages that this request lost."""

    def __init__(self, model: str, node_ids: Sequence[str]) -> None:
        super().__init__(
            f"no pipeline of '{model}' is left without {', '.join(node_ids)}: try again"
        )


class PrivacyUnsatisfied(PlanUnavailable):
    """The model is served, but by no pipeline that the prompt may travel."""

    def __init__(self, model: str, lack: str) -> None:
        super().__init__(
            f"no pipeline of '{model}' keeps to the privacy asked for: {lack}; load the model "
            "within it or ask for less"
        )


class LoadFailed(PlanUnavailable):
    """A model that could be loaded was not; asking again before `retry_in_s` tries nothing."""

    def __init__(self, model: str, detail: str, retry_in_s: float) -> None:
        super().__init__(
            f"model '{model}' could not be loaded: {detail}; it is tried again in "
            f"{max(1, round(retry_in_s))} s at the earliest"
        )
