"""What can go wrong at the front door, besides shoal_common's tree.

InvalidRequest
├── MalformedBody      not JSON, not an object, not text
├── UnknownRoute       no such path
└── WrongMethod        the path knows other methods
Unavailable
├── NoModelReady       `auto`, and nothing is ready
├── ModelNotReady      its engines are starting, so that nothing is known of it yet
├── ModelReplaced      a new revision came between tokenising and planning
├── VisionEncoderUnavailable  a model for images, whose encoder nobody holds
├── PeerRefused        another service does not take our fleet token
├── DatabaseUnreachable  keys and accounts cannot be read now
├── PeerUnreachable    another service's connection broke, or was never there
└── StageSilent        nothing came from the head for too long
"""

from __future__ import annotations

import grpc

from shoal_common.errors import InvalidRequest, Unavailable


class MalformedBody(InvalidRequest):
    """The body cannot be read as a JSON object."""

    reason = "MALFORMED_BODY"

    def __init__(self, detail: str) -> None:
        super().__init__(f"the request body must be a JSON object in UTF-8: {detail}")


class UnknownRoute(InvalidRequest):
    """No route of that path."""

    reason = "UNKNOWN_ROUTE"
    http_status = 404

    def __init__(self, method: str, path: str) -> None:
        super().__init__(f"there is no {method} {path[:200]}")


class WrongMethod(InvalidRequest):
    """The path exists, with other methods."""

    reason = "METHOD_NOT_ALLOWED"
    http_status = 405

    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(f"{method} is not allowed on {path[:200]}; allowed: {allowed}")


class NoModelReady(Unavailable):
    """No model was named and none is ready."""

    reason = "NO_MODEL_READY"

    def __init__(self) -> None:
        super().__init__("no model is ready yet; try again shortly or see /v1/models")


class ModelNotReady(Unavailable):
    """The model's engines are starting."""

    reason = "MODEL_NOT_READY"

    def __init__(self, model: str) -> None:
        super().__init__(f"model '{model}' is starting; try again in a few seconds")


class ModelReplaced(Unavailable):
    """The plan is for another revision than the prompt's tokens."""

    reason = "MODEL_REPLACED"

    def __init__(self, model: str) -> None:
        super().__init__(f"model '{model}' was replaced while the request began; try again")


class VisionEncoderUnavailable(Unavailable):
    """The model's images need an encoder; the fleet's workers hold layers of text only."""

    reason = "VISION_ENCODER_UNAVAILABLE"
    retryable = False

    def __init__(self, model: str) -> None:
        super().__init__(
            f"no worker holds the vision encoder of model '{model}'; leave the images out or ask "
            "another model"
        )


class StageSilent(Unavailable):
    """No delta within the idle limit."""

    reason = "STAGE_SILENT"
    grpc_code = grpc.StatusCode.DEADLINE_EXCEEDED
    http_status = 504

    def __init__(self, idle_timeout_s: float) -> None:
        super().__init__(f"the workers sent nothing for {idle_timeout_s:g} s; try again")


class DatabaseUnreachable(Unavailable):
    """SQLite or PostgreSQL does not answer."""

    reason = "DATABASE_UNREACHABLE"

    def __init__(self) -> None:
        super().__init__("the gateway's database does not answer now; try again")


class PeerRefused(Unavailable):
    """The fleet's services do not share one token: its operator must act, not the client."""

    reason = "PEER_REFUSED"
    retryable = False

    def __init__(self, peer: str) -> None:
        super().__init__(f"{peer} refused the gateway's fleet token; tell the fleet's operator")


class PeerUnreachable(Unavailable):
    """No connection to another service."""

    reason = "PEER_UNREACHABLE"

    def __init__(self, peer: str) -> None:
        super().__init__(f"{peer} cannot be reached now; try again")
