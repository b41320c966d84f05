"""gRPC as every service speaks it: servers, channels, errors on the wire, deadlines, locators.

Owns the options, metadata and translation that all calls share. Does not know any service's
messages.

    addresses.py  "host:port" and "unix:/path", and locators ("grpc:" + address)
    status.py     ShoalError <-> status with google.rpc.ErrorInfo
    deadline.py   what is left of a call's time, and how it travels
    guard.py      what every incoming call passes: token, context, errors
    health.py     grpc.health.v1
    server.py     RpcServer
    channel.py    RpcChannel
"""

from shoal_common.rpc.addresses import address_of, locator
from shoal_common.rpc.channel import Dial, RpcChannel
from shoal_common.rpc.deadline import deadline, remaining_s
from shoal_common.rpc.server import RpcServer, Serve
from shoal_common.rpc.status import to_shoal_error, translated

__all__ = [
    "Dial",
    "RpcChannel",
    "RpcServer",
    "Serve",
    "address_of",
    "deadline",
    "locator",
    "remaining_s",
    "to_shoal_error",
    "translated",
]
