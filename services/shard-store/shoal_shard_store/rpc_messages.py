"""Domain objects as messages and back. Translation, nothing else."""

from __future__ import annotations

from pathlib import Path

from shoal.shard_store.v1 import shard_store_pb2 as pb
from shoal_common.errors import InvalidRequest
from shoal_shard_store.errors import InvalidRepo, UntrustedFolder
from shoal_shard_store.holdings import Held, span_messages
from shoal_shard_store.importer import ImportProgress
from shoal_shard_store.manifest import blobs_of
from shoal_shard_store.manifest_check import layers_in
from shoal_shard_store.model_folder import allowed_folder
from shoal_shard_store.order import Order
from shoal_shard_store.progress import DownloadProgress, DownloadState
from shoal_shard_store.prune import EVERYTHING, Verdict
from shoal_shard_store.sources.names import check_file_name, check_repo_id, check_revision

_STATES = {
    DownloadState.WAITING: pb.DOWNLOAD_STATE_WAITING,
    DownloadState.PLANNING: pb.DOWNLOAD_STATE_PLANNING,
    DownloadState.RUNNING: pb.DOWNLOAD_STATE_RUNNING,
    DownloadState.COMPLETE: pb.DOWNLOAD_STATE_COMPLETE,
    DownloadState.FAILED: pb.DOWNLOAD_STATE_FAILED,
    DownloadState.CANCELLED: pb.DOWNLOAD_STATE_CANCELLED,
}


def order_of(request: pb.AcquireModelRequest, roots: tuple[Path, ...]) -> Order:
    """What was asked for. Raises InvalidRepo, FolderNotAllowed, UntrustedFolder, InvalidRequest."""
    file = request.file
    if request.repo.startswith(("http://", "https://")):
        name = request.repo.rstrip("/").rsplit("/", 1)[-1]
    elif request.repo:
        check_repo_id(request.repo)
        name = request.repo.split("/")[1]
    else:
        name = request.model
    if request.repo_revision:
        check_revision(request.repo_revision)
    if file and not file.endswith(".gguf"):
        raise InvalidRepo(file, "a file that is named must be a GGUF file")
    if file and request.repo:
        check_file_name(file)
    elif file:
        file = str(gguf_path(file, roots))
    if file:
        name = Path(file).stem
    if not (request.model or name):
        raise InvalidRequest("name a repository, a file or a model", param="repo")
    layers = None
    if request.HasField("layers"):
        layers = (request.layers.layer_start, request.layers.layer_stop)
    return Order(
        request.model or name,
        request.repo,
        request.repo_revision,
        file,
        layers,
        request.is_fair_share,
    )


def gguf_path(path: str, roots: tuple[Path, ...]) -> Path:
    """A GGUF file below an allowed root; links in the way are resolved, the file is no link."""
    parent = allowed_folder(str(Path(path).parent), roots)
    found = parent / Path(path).name
    if not found.is_file() or found.is_symlink():
        raise UntrustedFolder(found.name, "no plain file", "name the GGUF file itself")
    return found


def download_message(progress: DownloadProgress) -> pb.Download:
    """A download as people are shown it."""
    return pb.Download(
        model=progress.model,
        repo=progress.repo,
        state=_STATES[progress.state],
        bytes_done=progress.bytes_done,
        bytes_total=progress.bytes_total,
        bytes_per_s=progress.meter.bytes_per_s,
        shards=[
            pb.ShardDownload(
                name=shard.name,
                bytes_done=shard.bytes_done,
                bytes_total=shard.bytes_total,
                bytes_per_s=shard.meter.bytes_per_s,
                source=shard.source,
                retry_count=shard.retry_count,
            )
            for shard in progress.running.values()
        ],
        shards_done=progress.shards_done,
        shards_total=progress.shards_total,
        detail=progress.detail,
        revision=progress.revision,
    )


def import_message(progress: ImportProgress) -> pb.ImportModelResponse:
    """How far the import of a folder is."""
    return pb.ImportModelResponse(
        model=progress.model,
        bytes_done=progress.bytes_done,
        bytes_total=progress.bytes_total,
        is_complete=progress.is_complete,
        revision=progress.revision,
    )


def imported_message(progress: DownloadProgress) -> pb.ImportModelResponse:
    """How far the import of a GGUF file is."""
    return pb.ImportModelResponse(
        model=progress.model,
        bytes_done=progress.bytes_done,
        bytes_total=progress.bytes_total,
        is_complete=progress.state is DownloadState.COMPLETE,
        revision=progress.revision,
    )


def model_message(held: Held, pins: frozenset[str]) -> pb.StoredModel:
    """A model and what is here of it."""
    document, groups = held.facts.document, held.groups
    sizes = {
        group["name"]: sum(segment["size_bytes"] for segment in group["segments"])
        for group in document["groups"]
    }
    return pb.StoredModel(
        model=held.model,
        revision=held.facts.stored.revision,
        architecture=document["architecture"],
        layer_count=document["layer_count"],
        shard_count=len(document["shards"]),
        size_bytes=_size_bytes(held),
        is_complete=held.is_complete,
        layers_held=span_messages(layers_in(groups)),
        holds_embed="embed" in groups,
        holds_head="head" in groups,
        held_bytes=sum(size for name, size in sizes.items() if name in groups),
        source=str(document.get("source", {}).get("origin", "")),
        is_pinned=EVERYTHING in pins,
        is_draft=held.facts.announcement is None,
    )


def _size_bytes(held: Held) -> int:
    """Equal blobs are stored once; those of a draft that are unknown count each."""
    document = held.facts.document
    if held.facts.announcement is not None:
        return sum(blobs_of(document).values())
    refs = [*document["files"].values(), *document["shards"]]
    return sum(ref["size_bytes"] for ref in refs)


def pruned_message(verdict: Verdict) -> pb.PrunedGroup:
    """One group that went or stayed."""
    return pb.PrunedGroup(
        model=verdict.held.model,
        group=verdict.held.group,
        size_bytes=verdict.held.size_bytes,
        replica_count=len(verdict.held.holders),
        kept_because=verdict.kept_because,
    )
