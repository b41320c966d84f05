"""What tells pipelines and engine processes apart."""

from __future__ import annotations

from shoal.worker.v1 import pipeline_pb2

StageName = tuple[str, str]
PipelineName = tuple[str, int, tuple[StageName, ...], tuple[int, ...]]


def stage_name(stage: pipeline_pb2.PipelineStage) -> StageName:
    """One engine process: its address and its incarnation."""
    return (stage.locator, stage.incarnation)


def pipeline_name(pipeline: pipeline_pb2.Pipeline) -> PipelineName:
    """One pipeline at one revision, with the processes it runs on and where their layers end."""
    stages = tuple(stage_name(stage) for stage in pipeline.stages)
    cuts = tuple(stage.layer_stop for stage in pipeline.stages)
    return (pipeline.pipeline_id, pipeline.revision, stages, cuts)
