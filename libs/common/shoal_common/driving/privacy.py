"""How far a prompt may travel, and whether a plan proves that it keeps to it.

The router finds the way; whoever sends the prompt checks it once more. Does not know: how workers
come by what they say of themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shoal.common.v1 import chat_pb2
from shoal.worker.v1 import pipeline_pb2
from shoal_common.driving.errors import PrivacyUnproven

Label = Literal["local", "pool", "lan", "public"]
LABELS: dict[Label, chat_pb2.PrivacyLabel] = {
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

    @classmethod
    def of_wire(cls, label: chat_pb2.PrivacyLabel, is_boomerang: bool) -> Privacy:
        """What a plan was asked with: no label is no bound, an unknown one the narrowest."""
        if label == chat_pb2.PRIVACY_LABEL_UNSPECIFIED:
            return cls("public", is_boomerang)
        known: dict[chat_pb2.PrivacyLabel, Label] = {value: word for word, value in LABELS.items()}
        return cls(known.get(label, "local"), is_boomerang)

    @property
    def is_open(self) -> bool:
        return self.label == "public" and not self.is_boomerang

    @property
    def wire_label(self) -> chat_pb2.PrivacyLabel:
        return LABELS[self.label]


OPEN = Privacy()


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
