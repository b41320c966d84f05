"""Weights of a layer range, fetched from the shard-store and kept on this machine.

Owns the worker's cache of segments, resume, verification and `SegmentSource`, which feeds them to
the engine. Does not know what the layers compute. Layout of the cache folder:

    segments/<digest[:2]>/<digest>              verified bytes; <digest>.tmp while they arrive
    models/<model>/<revision>/config.json ...   the small files
    models/<model>/<revision>/tensors.0-3.json  where each tensor of layers 0:3 lies

The last one lets another process (the engine child) open the source without the network.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import mmap
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from blake3 import blake3

from shoal.shard_store.v1 import shard_store_pb2 as pb
from shoal.shard_store.v1 import shard_store_pb2_grpc as pb_grpc
from shoal_common.clock import Clock, SystemClock
from shoal_common.errors import InvalidRequest, ShoalError, Unavailable
from shoal_common.rpc import RpcChannel, translated
from shoal_engine.gguf_blocks import PREFIX, problem_of, read_blocks

log = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None]
"""Called with bytes that are here and bytes needed in all."""

_CALL_TIMEOUT_S = 30.0
# The first byte waits until the store has hashed the whole shard: 2 GiB at 100 MB/s.
_SILENCE_TIMEOUT_S = 30.0
_ATTEMPTS_MAX = 5
_RETRY_DELAY_S = 0.5
_LOCK_POLL_S = 0.1
_CHUNK_SIZE_BYTES = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
}


class DamagedDownload(Unavailable):
    """Bytes that arrived do not match their digest, twice."""

    reason = "DAMAGED_DOWNLOAD"

    def __init__(self, digest: str) -> None:
        super().__init__(
            f"segment {digest} arrived damaged twice; try again, and check network and disks"
        )


class DamagedManifest(ShoalError):
    """The shard-store's manifest contradicts itself."""

    reason = "DAMAGED_MANIFEST"

    def __init__(self, model: str, problem: str) -> None:
        super().__init__(f"manifest of '{model}' cannot be used: {problem}; import the model again")


@dataclass(frozen=True)
class TensorPlace:
    """A tensor's bytes: [offset_bytes, offset_bytes + size_bytes) of the file at `path`.

    permuted_heads: its rows are in llama.cpp's order, of so many heads; 0 where they are not.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int
    size_bytes: int
    permuted_heads: int = 0


@dataclass(frozen=True)
class Segment:
    """A byte range of a shard, verified by its own digest."""

    shard_digest: str
    offset_bytes: int
    size_bytes: int
    digest: str
    tensors: tuple[Mapping[str, Any], ...]


class SegmentSource:
    """Tensors of verified segments by name (`shoal_engine.loading.TensorSource`).

    Files stay mapped until `close`; what `read` returns does not depend on them.
    """

    def __init__(self, places: Mapping[str, TensorPlace]) -> None:
        self._places = dict(places)
        self._maps: dict[str, mmap.mmap] = {}

    @classmethod
    def open(cls, index: Path) -> SegmentSource:
        """The source that `LocalModel.index` describes, in this or another process."""
        places = json.loads(index.read_bytes())
        return cls(
            {
                name: TensorPlace(**{**place, "shape": tuple(place["shape"])})
                for name, place in places.items()
            }
        )

    def names(self) -> list[str]:
        """Names of the tensors that the layer range needs."""
        return list(self._places)

    def read(self, name: str) -> torch.Tensor:
        """One tensor, on the CPU, owning its memory: in its stored dtype, or what was in blocks
        of a GGUF file in float32."""
        place = self._places[name]
        if place.dtype.startswith(PREFIX):
            blocks = np.frombuffer(
                self._mapped(place.path), np.uint8, place.size_bytes, place.offset_bytes
            )
            return read_blocks(blocks, place.dtype, place.shape, place.permuted_heads)
        # A tensor's own memory is aligned; a mapped file's tensors lie at any address.
        data = torch.empty(place.size_bytes, dtype=torch.uint8)
        if place.size_bytes:
            data.numpy()[:] = np.frombuffer(
                self._mapped(place.path), np.uint8, place.size_bytes, place.offset_bytes
            )
        return data.view(_DTYPES[place.dtype]).reshape(place.shape)

    def close(self) -> None:
        """Let go of the files. Idempotent; a later `read` maps them again."""
        maps, self._maps = self._maps, {}
        for mapped in maps.values():
            mapped.close()

    def _mapped(self, path: str) -> mmap.mmap:
        if path not in self._maps:
            with Path(path).open("rb") as file:
                self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[path]


@dataclass(frozen=True)
class LocalModel:
    """A layer range that is whole on this machine.

    `folder` holds config.json and the other small files, `index` says where the tensors are
    (`SegmentSource.open`), `source` is that index opened. `layers` is half-open.
    """

    model: str
    folder: Path
    revision: str
    manifest: Mapping[str, Any]
    layers: tuple[int, int]
    index: Path
    source: SegmentSource


def segments_needed(
    manifest: Mapping[str, Any], layer_start: int, layer_stop: int
) -> list[Segment]:
    """Segments of layers [layer_start, layer_stop), with embedding and head where they belong.

    The first stage embeds; the last one makes logits and needs the embedding too when it is tied.
    Raises InvalidRequest for a range beyond the model, DamagedManifest.
    """
    layer_count = manifest["layer_count"]
    if not 0 <= layer_start < layer_stop <= layer_count:
        raise InvalidRequest(
            f"layers {layer_start}:{layer_stop} are not in '{manifest['model']}', which has "
            f"{layer_count} layers; ranges are half-open, such as 0:{layer_count}"
        )
    is_last = layer_stop == layer_count
    names = {f"layer.{layer}" for layer in range(layer_start, layer_stop)}
    if layer_start == 0 or (is_last and manifest["tie_embeddings"]):
        names.add("embed")
    if is_last:
        names.add("head")
    groups = [group for group in manifest["groups"] if group["name"] in names]
    if len(groups) != len(names):
        raise DamagedManifest(manifest["model"], f"it lacks some of {', '.join(sorted(names))}")
    shards = manifest["shards"]
    return [
        _segment(manifest["model"], shards, segment)
        for group in groups
        for segment in group["segments"]
    ]


def _segment(model: str, shards: list[dict[str, Any]], data: Mapping[str, Any]) -> Segment:
    shard = shards[data["shard"]]
    segment = Segment(
        shard["digest"],
        data["offset_bytes"],
        data["size_bytes"],
        data["digest"],
        tuple(data["tensors"]),
    )
    if not 0 <= segment.offset_bytes <= shard["size_bytes"] - segment.size_bytes:
        raise DamagedManifest(model, "a segment ends beyond its shard")
    for digest in (segment.digest, segment.shard_digest):
        if _DIGEST.fullmatch(digest) is None:
            raise DamagedManifest(model, "a digest is no BLAKE3")
    for tensor in segment.tensors:
        problem = _dtype_problem(tensor)
        if problem:
            raise DamagedManifest(model, f"tensor {tensor['name'][:200]}: {problem}")
        if not 0 <= tensor["offset_bytes"] <= segment.size_bytes - tensor["size_bytes"]:
            raise DamagedManifest(model, f"tensor {tensor['name'][:200]} ends beyond its segment")
    return segment


def _dtype_problem(tensor: Mapping[str, Any]) -> str:
    """Why a tensor's bytes cannot be read as numbers; empty when they can."""
    dtype = tensor["dtype"]
    if dtype.startswith(PREFIX):
        heads = tensor.get("permuted_heads", 0)
        return problem_of(dtype, tuple(tensor["shape"]), tensor["size_bytes"], heads)
    return "" if dtype in _DTYPES else f"its dtype is {dtype[:40]}"


class ShardClient:
    """Fetches layer ranges. Several processes may share one cache folder."""

    def __init__(
        self,
        address: str,
        token: str,
        cache_dir: Path,
        shared_blob_dir: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        """shared_blob_dir: the store's own blobs where this machine can read them."""
        self._channel = RpcChannel(address, token=token)
        self._stub = pb_grpc.ShardStoreServiceStub(self._channel.channel)
        self._cache_dir = cache_dir
        self._shared_blob_dir = shared_blob_dir
        self._clock = SystemClock() if clock is None else clock

    async def close(self) -> None:
        """Close the connection; fetched models stay usable."""
        await self._channel.close()

    async def fetch(
        self,
        model: str,
        layers: tuple[int, int] | None = None,
        on_progress: OnProgress | None = None,
    ) -> LocalModel:
        """Bring the newest revision of `model` here, as far as `layers` (all: None) need it.

        What an earlier call left unfinished is resumed. Raises the store's errors (UnknownModel,
        CORRUPT_BLOB ...), Unavailable when it stays away, DamagedDownload, InvalidRequest.
        """
        revision, manifest = await self._manifest(model)
        start, stop = layers if layers is not None else (0, manifest["layer_count"])
        segments = segments_needed(manifest, start, stop)
        meter = _Meter(sum(segment.size_bytes for segment in segments), on_progress)
        folder = self._cache_dir / "models" / model / revision
        await self._fetch_files(manifest, folder)
        places: dict[str, TensorPlace] = {}
        for segment in segments:
            path, base = await self._locate(segment, meter)
            for tensor in segment.tensors:
                places[tensor["name"]] = TensorPlace(
                    str(path),
                    tensor["dtype"],
                    tuple(tensor["shape"]),
                    base + tensor["offset_bytes"],
                    tensor["size_bytes"],
                    tensor.get("permuted_heads", 0),
                )
        index = folder / f"tensors.{start}-{stop}.json"
        rows = {name: vars(place) for name, place in places.items()}
        await asyncio.to_thread(_write, index, json.dumps(rows).encode())
        log.info("layers fetched", extra={"model": model, "layers": f"{start}:{stop}"})
        source = SegmentSource(places)
        return LocalModel(model, folder, revision, manifest, (start, stop), index, source)

    async def _manifest(self, model: str) -> tuple[str, dict[str, Any]]:
        if _FILE_NAME.fullmatch(model) is None:
            raise InvalidRequest(f"'{model[:140]}' cannot name a model", param="model")
        with translated():
            answer = await self._stub.GetManifest(
                pb.GetManifestRequest(model=model), timeout=_CALL_TIMEOUT_S
            )
        if blake3(answer.manifest_json).hexdigest() != answer.revision:
            raise DamagedManifest(model, "it does not match its revision")
        manifest: dict[str, Any] = json.loads(answer.manifest_json)
        if manifest.get("format") != 1:
            raise DamagedManifest(model, "its format is not 1; update the older of the two")
        return answer.revision, manifest

    async def _fetch_files(self, manifest: Mapping[str, Any], folder: Path) -> None:
        """Put the small files into `folder`; those already there and whole are left alone."""
        await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        for name, ref in manifest["files"].items():
            if _FILE_NAME.fullmatch(name) is None or _DIGEST.fullmatch(ref["digest"]) is None:
                raise DamagedManifest(manifest["model"], f"file {name[:100]!r} is not allowed")
            whole = Segment(ref["digest"], 0, ref["size_bytes"], ref["digest"], ())
            if not await asyncio.to_thread(_is_whole, folder / name, whole, 0):
                await self._download(whole, folder / name, _Meter(0, None))

    async def _locate(self, segment: Segment, meter: _Meter) -> tuple[Path, int]:
        """A file that holds the verified segment, and where in it the segment begins."""
        if self._shared_blob_dir is not None:
            digest = segment.shard_digest
            shared = self._shared_blob_dir / digest[:2] / digest
            if await asyncio.to_thread(_is_whole, shared, segment, segment.offset_bytes):
                meter.add(segment.size_bytes)
                return shared, segment.offset_bytes
            log.warning("shared shard not usable", extra={"digest": digest})
        path = self._cache_dir / "segments" / segment.digest[:2] / segment.digest
        if await asyncio.to_thread(_is_whole, path, segment, 0):
            meter.add(segment.size_bytes)
        else:
            await asyncio.to_thread(path.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
            await self._download(segment, path, meter)
        return path, 0

    async def _download(self, segment: Segment, path: Path, meter: _Meter) -> None:
        """Bring a segment to `path`, going on where an unfinished file ends."""
        async with self._locked(path) as file:
            # Another process may have finished it while this one waited for the lock.
            if await asyncio.to_thread(_is_whole, path, segment, 0):
                Path(f"{path}.tmp").unlink(missing_ok=True)
                meter.add(segment.size_bytes)
                return
            for _ in range(2):
                await self._complete(segment, file, meter)
                if await asyncio.to_thread(_hash, file, 0, segment.size_bytes) == segment.digest:
                    await asyncio.to_thread(os.fsync, file.fileno())
                    os.replace(f"{path}.tmp", path)
                    return
                log.warning("segment arrived damaged", extra={"digest": segment.digest})
                meter.add(-segment.size_bytes)
                file.truncate(0)
        raise DamagedDownload(segment.digest)

    async def _complete(self, segment: Segment, file: BinaryIO, meter: _Meter) -> None:
        """Append what is missing; asks again, from there on, when the store goes away."""
        done = file.seek(0, os.SEEK_END)
        if done > segment.size_bytes:
            done = file.truncate(file.seek(0))
        meter.add(done)
        attempt = 1
        while done < segment.size_bytes:
            before = done
            try:
                async with aclosing(self._read_blob(segment, done)) as pieces:
                    async for data in pieces:
                        await asyncio.to_thread(_append, file, data)
                        done += len(data)
                        meter.add(len(data))
            except ShoalError as err:
                attempt = attempt + 1 if done == before else 2
                if not err.retryable or attempt > _ATTEMPTS_MAX:
                    raise
                log.warning("download interrupted", extra={"digest": segment.digest})
                await self._clock.sleep(_RETRY_DELAY_S * attempt)

    async def _read_blob(self, segment: Segment, done: int) -> AsyncGenerator[bytes, None]:
        expected = segment.size_bytes - done
        call = self._stub.ReadBlob(
            pb.ReadBlobRequest(
                digest=segment.shard_digest,
                offset_bytes=segment.offset_bytes + done,
                length_bytes=expected,
            )
        )
        messages = aiter(call)
        try:
            with translated():
                while expected:
                    async with asyncio.timeout(_SILENCE_TIMEOUT_S):
                        message = await anext(messages, None)
                    if message is None or not 0 < len(message.data) <= expected:
                        raise Unavailable(f"the shard-store ended {segment.digest} early")
                    expected -= len(message.data)
                    yield message.data
        except TimeoutError as err:
            raise Unavailable(f"the shard-store was silent for {_SILENCE_TIMEOUT_S:.0f} s") from err
        finally:
            call.cancel()

    @asynccontextmanager
    async def _locked(self, path: Path) -> AsyncIterator[BinaryIO]:
        """The unfinished file of `path`, which no other process writes meanwhile."""
        unfinished = Path(f"{path}.tmp")
        while (file := await asyncio.to_thread(_open_locked, unfinished)) is None:
            await self._clock.sleep(_LOCK_POLL_S)
        try:
            yield file
        finally:
            file.close()


class _Meter:
    """Counts bytes that are here and tells the listener."""

    def __init__(self, total: int, on_progress: OnProgress | None) -> None:
        self._done = 0
        self._total = total
        self._on_progress = on_progress

    def add(self, size_bytes: int) -> None:
        self._done += size_bytes
        if self._on_progress is not None and size_bytes:
            self._on_progress(self._done, self._total)


def _open_locked(path: Path) -> BinaryIO | None:
    """The file at `path` for this process alone; None while another one has it."""
    file = path.open("a+b", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its last owner may have renamed or removed it between opening and locking.
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    file.close()
    return None


def _is_whole(path: Path, segment: Segment, offset_bytes: int) -> bool:
    """True when the file at `path` holds the segment's bytes, unharmed, at `offset_bytes`."""
    try:
        with path.open("rb", buffering=0) as file:
            return _hash(file, offset_bytes, segment.size_bytes) == segment.digest
    except OSError:
        return False


def _hash(file: BinaryIO, offset_bytes: int, size_bytes: int) -> str:
    hasher = blake3()
    stop = offset_bytes + size_bytes
    while offset_bytes < stop:
        chunk = os.pread(file.fileno(), min(_CHUNK_SIZE_BYTES, stop - offset_bytes), offset_bytes)
        if not chunk:
            break
        hasher.update(chunk)
        offset_bytes += len(chunk)
    return hasher.hexdigest()


def _append(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _write(path: Path, data: bytes) -> None:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    unfinished.write_bytes(data)
    os.replace(unfinished, path)
