"""A model that was stored as a GGUF file says what its numbers say in transformers."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch

from shoal.shard_store.v1 import shard_store_pb2 as pb
from shoal.shard_store.v1 import shard_store_pb2_grpc as pb_grpc
from shoal_common.bus import Bus
from shoal_common.errors import Unavailable
from shoal_common.rpc import RpcChannel, translated
from shoal_common.settings import FleetSettings
from shoal_engine.loading import StageOptions, load_stage
from shoal_engine.shape import LayerRange
from shoal_engine.stage import Row, Stage, StageBatch
from shoal_engine.testing import LAYER_COUNT, prompt_of, reference_tokens
from shoal_shard_store.app import serving
from shoal_shard_store.settings import Settings as StoreSettings
from shoal_worker_gpu.shards import SegmentSource, ShardClient, TensorPlace

from .gguf_files import FAMILIES, GgufModel

COUNT = 12


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def places_of(model: GgufModel) -> dict[str, TensorPlace]:
    """Where the file holds each tensor, by its name in the checkpoint."""
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(model.file).tensors}
    places = {}
    for name, gguf_name in model.names.items():
        tensor = stored[gguf_name]
        places[name] = TensorPlace(
            str(model.file),
            f"GGUF:{tensor.tensor_type.name}",
            tuple(int(size) for size in reversed(tensor.shape)),
            int(tensor.data_offset),
            int(tensor.n_bytes),
            model.heads_of(name),
        )
    return places


def greedy(stages: list[Stage], prompt: list[int]) -> list[int]:
    """COUNT tokens behind `prompt`, through stages that follow one another."""
    kvs = [stage.pool.sequence(len(prompt) + COUNT) for stage in stages]
    made: list[int] = []
    given = prompt
    while len(made) < COUNT:
        hidden = None
        for stage, kv in zip(stages, kvs, strict=True):
            ids = torch.tensor(given) if hidden is None else None
            row = Row(kv, kv.length, len(given))
            output = stage.forward(StageBatch([row], token_ids=ids, hidden=hidden))
            hidden = output.hidden
        assert output.logits is not None
        given = [int(output.logits[0].argmax())]
        made += given
    return made


async def no_bus() -> Bus:
    raise Unavailable("NATS is away")


async def fetched(
    file: Path, data_dir: Path, *ranges: tuple[int, int], options: StageOptions
) -> list[Stage]:
    """Stages of a file that a shard-store has imported, loaded from what the worker fetches."""
    settings = StoreSettings(
        side_address="", import_roots=(file.parent,), fleet=FleetSettings(data_dir=data_dir)
    )
    async with serving(settings, no_bus) as address:
        channel = RpcChannel(address)
        client = ShardClient(address, "", data_dir / "worker")
        try:
            with translated():
                stub = pb_grpc.ShardStoreServiceStub(channel.channel)
                request = pb.ImportModelRequest(request_id="r", path=str(file))
                assert [step async for step in stub.ImportModel(request)][-1].is_complete
            models = [await client.fetch(file.stem, layers) for layers in ranges]
        finally:
            await client.close()
            await channel.close()
    stages = []
    for model in models:
        stages.append(load_stage(model.folder, LayerRange(*model.layers), options, model.source))
        model.source.close()
    return stages


@pytest.mark.parametrize("kind", ["Q8_0", "F16"])
@pytest.mark.parametrize("architecture", FAMILIES)
async def test_a_file_goes_through_the_store_to_stages_that_say_the_same(
    tmp_path: Path, architecture: str, kind: str
) -> None:
    model = GgufModel(tmp_path, architecture, kind)
    stages = await fetched(
        model.file, tmp_path / "data", (0, 3), (3, LAYER_COUNT), options=StageOptions()
    )
    prompt = prompt_of(23, seed=3)
    assert greedy(stages, prompt) == reference_tokens(model.folder, prompt, COUNT)


@pytest.mark.parametrize("kind", ["Q8_0", "F16", "BF16", "Q4_0"])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_its_numbers_and_tokens_are_those_of_the_checkpoint(
    tmp_path: Path, architecture: str, kind: str
) -> None:
    model = GgufModel(tmp_path, architecture, kind)
    source = SegmentSource(places_of(model))
    expected = load_stage(model.folder, LayerRange(0, LAYER_COUNT), StageOptions())
    stage = load_stage(model.folder, LayerRange(0, LAYER_COUNT), StageOptions(), source)
    source.close()
    wanted = dict(expected._model.body.named_parameters())
    for name, parameter in stage._model.body.named_parameters():
        assert torch.equal(parameter, wanted[name]), name
    prompt = prompt_of(23, seed=3)
    assert greedy([stage], prompt) == reference_tokens(model.folder, prompt, COUNT)


def test_int8_is_made_from_what_the_blocks_mean(tmp_path: Path) -> None:
    model = GgufModel(tmp_path, "LlamaForCausalLM", "Q8_0")
    source = SegmentSource(places_of(model))
    layers, options = LayerRange(0, LAYER_COUNT), StageOptions(quantization="int8")
    prompt = prompt_of(9, seed=1)
    expected = greedy([load_stage(model.folder, layers, options)], prompt)
    assert greedy([load_stage(model.folder, layers, options, source)], prompt) == expected
    source.close()
