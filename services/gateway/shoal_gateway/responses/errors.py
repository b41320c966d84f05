"""What can go wrong with stored responses.

InvalidRequest
├── ResponseNotFound           no such record, or another caller's
├── PreviousResponseNotFound   the turn to continue, or one before it, is gone
└── ResponseTooLarge           it does not fit the store
Unavailable
├── StoreUnreachable           Redis is away, or there is none
└── GatewayStopping            an answer in the background met the gateway's end
Overloaded
└── BackgroundFull             as many answers in the background as one gateway takes
Internal
└── ProducerLost               the gateway of an answer in the background has died
"""

from __future__ import annotations

from shoal_common.errors import Internal, InvalidRequest, Overloaded, Unavailable


class ResponseNotFound(InvalidRequest):
    """The record never was, has expired, was deleted, or belongs to another caller."""

    reason = "RESPONSE_NOT_FOUND"
    http_status = 404

    def __init__(self, response_id: str) -> None:
        super().__init__(f"response '{response_id}' was not found", param="response_id")


class PreviousResponseNotFound(InvalidRequest):
    """The conversation cannot be continued without what came before."""

    reason = "PREVIOUS_RESPONSE_NOT_FOUND"
    http_status = 404

    def __init__(self, response_id: str) -> None:
        super().__init__(
            f"previous response '{response_id}' was not found; it may have expired or was not "
            "stored",
            param="previous_response_id",
        )


class ResponseTooLarge(InvalidRequest):
    """Input or events are beyond what one record may hold."""

    reason = "RESPONSE_TOO_LARGE"
    http_status = 413

    def __init__(self, size_bytes: int, size_bytes_max: int) -> None:
        super().__init__(
            f"the response has {size_bytes} bytes, and at most {size_bytes_max} are stored; send "
            "less, ask for fewer logprobs, or set 'store' to false"
        )


class StoreUnreachable(Unavailable):
    """Responses can neither be kept nor found now."""

    reason = "RESPONSE_STORE_UNREACHABLE"

    def __init__(self) -> None:
        super().__init__(
            "stored responses cannot be reached now; try again, or set 'store' to false"
        )


class BackgroundFull(Overloaded):
    """The bound on background answers is met."""

    reason = "BACKGROUND_FULL"

    def __init__(self, count_max: int) -> None:
        super().__init__(
            f"{count_max} responses are being answered in the background, which is the limit; "
            "try again shortly"
        )


class GatewayStopping(Unavailable):
    """The gateway was stopped before the answer ended."""

    reason = "GATEWAY_STOPPING"

    def __init__(self) -> None:
        super().__init__("the gateway was stopped before the response ended; ask again")


class ProducerLost(Internal):
    """The gateway that answered has died."""

    reason = "PRODUCER_LOST"

    def __init__(self) -> None:
        super().__init__("the gateway that answered this response has ended; ask again")
