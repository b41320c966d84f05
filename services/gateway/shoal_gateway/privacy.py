"""How far a prompt may travel: what a request asks, and whether a plan proves that it keeps to it.

The router finds the way; whoever sends the prompt checks it once more. Does not know: how workers
come by what they say of themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from shoal.common.v1 import chat_pb2
from shoal.worker.v1 import pipeline_pb2
from shoal_common.errors import InvalidRequest
from shoal_gateway.errors import PrivacyUnproven

LABEL_HEADER = "x-shoal-privacy"
BOOMERANG_HEADER = "x-shoal-boomerang"

Label = Literal["local", "pool", "lan", "public"]
_LABELS: dict[Label, chat_pb2.PrivacyLabel] = {
    "local": chat_pb2.PRIVACY_LABEL_LOCAL,
    "pool": chat_pb2.PRIVACY_LABEL_POOL,
    "lan": chat_pb2.PRIVACY_LABEL_LAN,
    "public": chat_pb2.PRIVACY_LABEL_PUBLIC,
}
_POOL = {pipeline_pb2.REACH_UNSPECIFIED, pipeline_pb2.REACH_POOL}
_REACHES: dict[Label, set[pipeline_pb2.Reach]] = {
    "local": set(),
    "pool": _POOL,
    "lan": {*_POOL, pipeline_pb2.REACH_LAN},
}


@dataclass(frozen=True)
class Privacy:
    """The machines that may see a prompt: this one, the fleet owner's, the local network's, all.

    is_boomerang: first and last stage, which see text, run on this machine.
    """

    label: Label = "public"
    is_boomerang: bool = False

    @property
    def is_open(self) -> bool:
        return self.label == "public" and not self.is_boomerang

    @property
    def wire_label(self) -> chat_pb2.PrivacyLabel:
        return _LABELS[self.label]


OPEN = Privacy()


def asked_privacy(label: str | None, boomerang: str | None, default: Privacy) -> Privacy:
    """From the values of the two headers. Raises InvalidRequest."""
    found = default.label
    if label is not None:
        word = label.strip().lower()
        if word not in _LABELS:
            raise InvalidRequest(
                f"'{LABEL_HEADER}' must be one of {', '.join(get_args(Label))}", param=LABEL_HEADER
            )
        found = word
    is_boomerang = default.is_boomerang
    if boomerang is not None:
        word = boomerang.strip().lower()
        if word not in ("true", "false"):
            raise InvalidRequest(
                f"'{BOOMERANG_HEADER}' must be true or false", param=BOOMERANG_HEADER
            )
        is_boomerang = word == "true"
    return Privacy(found, is_boomerang)


def require_open(privacy: Privacy, model: str) -> None:
    """Whoever serves the model is outside of every bound. Raises InvalidRequest."""
    if not privacy.is_open:
        header = LABEL_HEADER if privacy.label != "public" else BOOMERANG_HEADER
        raise InvalidRequest(
            f"'{header}' keeps the prompt within your own fleet, but model '{model[:200]}' is "
            "answered by somebody else: ask for a model of the fleet or leave the header out",
            param=header,
        )


def check_proof(privacy: Privacy, pipeline: pipeline_pb2.Pipeline, host_id: str) -> None:
    """Whether every stage may see the prompt, by what the plan says of it.

    host_id: of this machine. Raises PrivacyUnproven.
    """
    if privacy.is_open:
        return
    if not pipeline.HasField("privacy"):
        raise PrivacyUnproven("it carries no proof")
    proof = pipeline.privacy
    if proof.label != privacy.wire_label or (privacy.is_boomerang and not proof.is_boomerang):
        raise PrivacyUnproven("its proof is of something else than was asked for")
    named = [stage.node_id for stage in pipeline.stages]
    if not named or [stage.node_id for stage in proof.stages] != named:
        raise PrivacyUnproven("its proof does not name its stages")
    for stage in proof.stages:
        is_local = bool(host_id) and stage.host_id == host_id
        if not (is_local or privacy.label == "public" or stage.reach in _REACHES[privacy.label]):
            raise PrivacyUnproven(f"stage '{stage.node_id}' is beyond '{privacy.label}'")
    if privacy.is_boomerang:
        for stage in (proof.stages[0], proof.stages[-1]):
            if not host_id or stage.host_id != host_id:
                raise PrivacyUnproven(f"stage '{stage.node_id}' sees text on another machine")
