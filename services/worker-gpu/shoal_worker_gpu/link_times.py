"""How far other workers are, as the receipts of what was sent to them tell.

Owns moving averages by worker, and keeps them when a link ends: the network stays as it is. A
receipt comes as soon as a message has arrived, whatever waits there; what waited here before it
was sent is not counted.
"""

from __future__ import annotations

from collections import OrderedDict

from shoal.worker.v1 import pipeline_pb2

LINKS_MAX = 64

_WEIGHT = 0.1
# One late receipt (a process that was busy elsewhere) must not move an average by more than this.
_OUTLIER_FACTOR = 3.0
# A smaller message's time is the round trip's; of a larger one's, the rest is its bytes'.
_SMALL_BYTES = 32 << 10
_LARGE_BYTES = 128 << 10


class LinkTime:
    """To one worker. rtt_s and bytes_per_s: moving averages, 0 until measured."""

    def __init__(self) -> None:
        self.rtt_s = 0.0
        self.bytes_per_s = 0.0
        # As long as only large messages were measured, the round trip is shorter than it seems.
        self._is_rtt_small = False

    def observe(self, took_s: float, size_bytes: int) -> None:
        """A message of `size_bytes` was confirmed after `took_s`."""
        if size_bytes <= _SMALL_BYTES:
            self.rtt_s = _moved(self.rtt_s if self._is_rtt_small else 0.0, took_s)
            self._is_rtt_small = True
        elif not self._is_rtt_small:
            self.rtt_s = min(self.rtt_s or took_s, took_s)
        elif size_bytes >= _LARGE_BYTES and took_s > self.rtt_s:
            self.bytes_per_s = _moved(self.bytes_per_s, size_bytes / (took_s - self.rtt_s))

    def one_way_us(self, size_bytes: int) -> int:
        """What a message of that size is expected to take to its receiver."""
        transfer_s = size_bytes / self.bytes_per_s if self.bytes_per_s else 0.0
        return int((self.rtt_s / 2 + transfer_s) * 1e6)


class LinkTimes:
    """By worker; of more than LINKS_MAX, those asked for last."""

    def __init__(self) -> None:
        self._links: OrderedDict[str, LinkTime] = OrderedDict()

    def of(self, node_id: str) -> LinkTime:
        """The averages for a worker, new if need be."""
        link = self._links.setdefault(node_id, LinkTime())
        self._links.move_to_end(node_id)
        while len(self._links) > LINKS_MAX:
            self._links.popitem(last=False)
        return link

    def told(self) -> list[pipeline_pb2.LinkTime]:
        """What has been measured, for a beat."""
        return [
            pipeline_pb2.LinkTime(
                node_id=node_id,
                rtt_us=max(1, int(link.rtt_s * 1e6)),
                bytes_per_s=int(link.bytes_per_s),
            )
            for node_id, link in self._links.items()
            if link.rtt_s
        ]


def nearest(told: list[pipeline_pb2.LinkTime], own_node_id: str) -> list[pipeline_pb2.LinkTime]:
    """One entry for each other worker, from what several engines have measured: the best."""
    best: dict[str, pipeline_pb2.LinkTime] = {}
    for link in told:
        if link.node_id == own_node_id:
            continue
        known = best.setdefault(link.node_id, link)
        if known is not link:
            best[link.node_id] = pipeline_pb2.LinkTime(
                node_id=link.node_id,
                rtt_us=min(known.rtt_us, link.rtt_us),
                bytes_per_s=max(known.bytes_per_s, link.bytes_per_s),
            )
    return list(best.values())[:LINKS_MAX]


def _moved(average: float, measured: float) -> float:
    if not average:
        return measured
    return average + _WEIGHT * (min(measured, _OUTLIER_FACTOR * average) - average)
