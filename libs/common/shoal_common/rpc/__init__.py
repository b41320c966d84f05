"""gRPC as all services use it: one server, one channel, one translation of errors.

Owns the fleet token in metadata, deadlines that shrink from hop to hop, keepalive, health,
draining, and the mapping between ShoalError and status with ErrorInfo. Does not know any service's
messages.
"""

from shoal_common.rpc.addresses import address_of, locator
from shoal_common.rpc.channel import RpcChannel
from shoal_common.rpc.deadline import remaining_s
from shoal_common.rpc.server import RpcServer
from shoal_common.rpc.status import to_shoal_error, translated

__all__ = [
    "RpcChannel",
    "RpcServer",
    "address_of",
    "locator",
    "remaining_s",
    "to_shoal_error",
    "translated",
]
