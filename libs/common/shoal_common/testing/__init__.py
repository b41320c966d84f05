"""Fakes that ship with the product, and real servers for tests.

Each fake passes the contract suite of the thing it stands for (`tests/contract`), so that a whole
fleet can run in one process. Tests import from the modules:

    clock.py   FakeClock: time that moves when told
    bus.py     MemoryBus, MemoryHub: NATS without a server
    rpc.py     MemoryRpc: gRPC without sockets
    nats.py    start_nats: a real nats-server on a free port
    engine.py  FakeEngine: the next token is a hash of all before it
    virtual_time.py  run_virtual: an event loop that jumps to its next timer, shared by processes
                     that can be frozen
    weather.py  Weather: delays, silence and resets between the hosts of a simulated fleet
    waiting.py eventually, eventually_told: until another process or thread has done something
"""

from shoal_common.testing.bus import MemoryBus, MemoryHub
from shoal_common.testing.clock import FakeClock
from shoal_common.testing.engine import FakeEngine, next_token
from shoal_common.testing.nats import NatsProcess, start_nats
from shoal_common.testing.rpc import MemoryRpc
from shoal_common.testing.waiting import eventually

__all__ = [
    "FakeClock",
    "FakeEngine",
    "MemoryBus",
    "MemoryHub",
    "MemoryRpc",
    "NatsProcess",
    "eventually",
    "next_token",
    "start_nats",
]
