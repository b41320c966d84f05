"""The models that are stored: one folder of manifests each.

Owns `<folder>/<model>/manifest.json` (the newest), `<revision>.json` (each one that was),
`source.json` (the files it was made from), `draft.json` (while digests of layers that were never
fetched are missing) and `pins.json` (groups that are never pruned). Blocking: call it from a
thread. Does not know blobs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shoal_common.errors import InvalidRequest, UnknownModel
from shoal_shard_store.blob_store import fsync_folder
from shoal_shard_store.errors import ModelIncomplete, UnknownRevision
from shoal_shard_store.manifest import revision_of
from shoal_shard_store.model_folder import FileStamp

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_REVISION = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoredManifest:
    """A manifest with its name."""

    model: str
    revision: str
    manifest_json: bytes

    def document(self) -> dict[str, Any]:
        """The manifest as data."""
        value: dict[str, Any] = json.loads(self.manifest_json)
        return value


@dataclass(frozen=True)
class SourceRecord:
    """From which files, and how, the newest manifest was made."""

    path: str
    shard_size_bytes: int
    files: Mapping[str, FileStamp]


def check_model_name(model: str) -> None:
    """Raise InvalidRequest for what cannot be a model's name (it becomes a folder's)."""
    if _MODEL_NAME.fullmatch(model) is None:
        raise InvalidRequest(
            f"'{model[:140]}' cannot name a model: use at most 128 letters, digits, '.', '_', "
            "'-', a letter or digit first",
            param="model",
        )


class Catalog:
    """Manifests on disk. Writing is for one thread at a time; readers never see half a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def models(self) -> list[str]:
        """Names of all models that have a manifest, sorted."""
        return sorted(path.parent.name for path in self._folder.glob("*/manifest.json"))

    def get(self, model: str, revision: str = "") -> StoredManifest:
        """A revision, or the newest.

        Raises UnknownModel, UnknownRevision, InvalidRequest, ModelIncomplete.
        """
        check_model_name(model)
        folder = self._folder / model
        if not (folder / "manifest.json").is_file():
            if (folder / "draft.json").is_file():
                raise ModelIncomplete(model, "some layers")
            raise UnknownModel(model, tuple(self.models()))
        if revision and _REVISION.fullmatch(revision) is None:
            raise UnknownRevision(model, revision)
        try:
            raw = (folder / (f"{revision}.json" if revision else "manifest.json")).read_bytes()
        except FileNotFoundError as err:
            raise UnknownRevision(model, revision) from err
        return StoredManifest(model, revision_of(raw), raw)

    def source(self, model: str) -> SourceRecord | None:
        """What the newest manifest was made from; None when there is no readable record."""
        try:
            data = json.loads((self._folder / model / "source.json").read_bytes())
            files = {name: FileStamp(**stamp) for name, stamp in data["files"].items()}
            return SourceRecord(data["path"], data["shard_size_bytes"], files)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def put(self, model: str, manifest_json: bytes, source: SourceRecord) -> StoredManifest:
        """Store a manifest as the model's newest. Its blobs must be on disk before."""
        check_model_name(model)
        stored = StoredManifest(model, revision_of(manifest_json), manifest_json)
        folder = self._folder / model
        folder.mkdir(mode=0o700, exist_ok=True)
        _write(folder / f"{stored.revision}.json", manifest_json)
        _write(folder / "manifest.json", manifest_json)
        # Last: without it a crash costs one more import, never a wrong belief that nothing changed.
        _write(folder / "source.json", json.dumps(asdict(source), sort_keys=True).encode())
        (folder / "draft.json").unlink(missing_ok=True)
        fsync_folder(self._folder)
        return stored

    def put_acquired(self, model: str, manifest_json: bytes) -> StoredManifest:
        """Store a manifest that was fetched; its blobs may be elsewhere."""
        check_model_name(model)
        stored = StoredManifest(model, revision_of(manifest_json), manifest_json)
        folder = self._folder / model
        folder.mkdir(mode=0o700, exist_ok=True)
        # First: a folder that was imported under this name is another model from now on.
        (folder / "source.json").unlink(missing_ok=True)
        _write(folder / f"{stored.revision}.json", manifest_json)
        _write(folder / "manifest.json", manifest_json)
        (folder / "draft.json").unlink(missing_ok=True)
        fsync_folder(self._folder)
        return stored

    def put_draft(self, model: str, manifest_json: bytes) -> None:
        """Store a manifest that lacks digests; a whole one of that name stays the newest."""
        check_model_name(model)
        folder = self._folder / model
        folder.mkdir(mode=0o700, exist_ok=True)
        _write(folder / "draft.json", manifest_json)
        fsync_folder(self._folder)

    def drafts(self) -> list[str]:
        """Names of all models that have only a draft, sorted."""
        found = (path.parent for path in self._folder.glob("*/draft.json"))
        return sorted(path.name for path in found if not (path / "manifest.json").is_file())

    def best(self, model: str) -> StoredManifest | None:
        """The newest manifest, else the draft, else None; a draft's revision is empty."""
        check_model_name(model)
        try:
            return self.get(model)
        except UnknownModel:
            return None
        except ModelIncomplete:
            try:
                raw = (self._folder / model / "draft.json").read_bytes()
            except FileNotFoundError:  # It became whole, or was removed, this very moment.
                return self.best(model)
            return StoredManifest(model, "", raw)

    def pins(self, model: str) -> frozenset[str]:
        """Groups that are never pruned; `*` stands for all of them."""
        check_model_name(model)
        try:
            found = json.loads((self._folder / model / "pins.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return frozenset()
        return frozenset(name for name in found if isinstance(name, str))

    def put_pins(self, model: str, groups: frozenset[str]) -> None:
        """Replace a model's pins. Raises UnknownModel."""
        if self.best(model) is None:
            raise UnknownModel(model, tuple(self.models()))
        _write(self._folder / model / "pins.json", json.dumps(sorted(groups)).encode())

    def remove(self, model: str) -> None:
        """Forget a model. Raises UnknownModel."""
        if self.best(model) is None:
            raise UnknownModel(model, tuple(self.models()))
        folder = self._folder / model
        # What makes it a model goes first: a crash leaves nothing half known.
        for name in ("manifest.json", "draft.json"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder)
        fsync_folder(self._folder)


def _write(path: Path, data: bytes) -> None:
    unfinished = path.with_name(f"{path.name}.tmp")
    with unfinished.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    fsync_folder(path.parent)
