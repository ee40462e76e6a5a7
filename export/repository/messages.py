"""One description of how a model is served ▶ Triton's own configuration messages, both profiles.

ModelSpec, Serving ─▶ ensemble │ <model>_prep │ <model>_net, each for gpu and for cpu
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from tritonclient.grpc.model_config_pb2 import (
    TYPE_FP32,
    TYPE_INT16,
    TYPE_INT32,
    TYPE_UINT8,
    ModelConfig,
    ModelEnsembling,
    ModelInput,
    ModelInstanceGroup,
    ModelOptimizationPolicy,
    ModelOutput,
    ModelParameter,
    ModelVersionPolicy,
    ModelWarmup,
)

from export.errors import RecipeError
from export.repository.options import Profile, Serving, Step
from preprocess.serving.configured import MASK, TUNED, tuned_parameters
from preprocess.spec import Head, ModelSpec

__all__ = (
    "Profile",
    "Serving",
    "Step",
    "configuration",
    "graph_batches",
    "warm_up_batches",
    "warm_up_files",
)

IMAGE = "image"
"""The input that every exported graph has, whatever the wire calls its tensors."""

CUDA = ModelOptimizationPolicy.Cuda
PINNED = ModelOptimizationPolicy.PinnedMemoryBuffer


def configuration(spec: ModelSpec, serving: Serving, step: Step, profile: Profile) -> ModelConfig:
    """The configuration of one of the three models in one profile.

    Raises:
        RecipeError: The model has an embedding head of unknown size.
    """
    if Head.EMBEDDING in spec.heads and serving.embedding < 1:
        raise RecipeError(f"{spec.name}: expected the size of its embedding, got none")
    config = ModelConfig(
        name=f"{spec.name}{step}",
        max_batch_size=serving.max_batch(profile),
        version_policy=ModelVersionPolicy(latest=ModelVersionPolicy.Latest(num_versions=1)),
    )
    match step:
        case Step.ENSEMBLE:
            _fill_ensemble(config, spec, serving)
        case Step.PREP:
            _fill_prep(config, spec, serving, profile)
        case Step.NET:
            _fill_net(config, spec, serving, profile)
    return config


def warm_up_batches(serving: Serving) -> tuple[int, ...]:
    """Batch sizes of the warm-up requests of the gpu profile: the plan's smallest and largest."""
    return _ascending((serving.batch_gpu[0], serving.batch_gpu[2]))


def warm_up_files(spec: ModelSpec) -> dict[str, bytes]:
    """What the warm-up requests of ``<model>_prep`` read, by its path in the repository.

    Triton reads one slice's worth and repeats it for the batch.
    """
    rows, columns = spec.geometry.size
    folder = f"{spec.name}{Step.PREP}/warmup"
    return {
        f"{folder}/region": struct.pack("<4f", 0, 0, rows, columns),
        f"{folder}/size": struct.pack("<2i", rows, columns),
    }


def graph_batches(serving: Serving) -> tuple[int, ...]:
    """Batch sizes that get a CUDA graph: powers of two, and the three of the plan's profile."""
    low, _, high = serving.batch_gpu
    powers = (1 << n for n in range(high.bit_length()))
    return _ascending((*serving.batch_gpu, *(n for n in powers if low <= n <= high)))


def _fill_ensemble(config: ModelConfig, spec: ModelSpec, serving: Serving) -> None:
    names = spec.tensors
    wire = {name: name for name in (names.image, names.region, names.size, names.intensity)}
    answers = {MASK: names.mask} | {str(head): str(head) for head in spec.heads}
    config.platform = "ensemble"
    config.input.extend(_wire_inputs(spec))
    config.output.extend(_answers(spec, serving, names.mask))
    config.ensemble_scheduling.step.extend(
        (
            ModelEnsembling.Step(
                model_name=f"{spec.name}{Step.PREP}",
                model_version=-1,
                input_map=wire,
                output_map={names.network: names.network},
            ),
            ModelEnsembling.Step(
                model_name=f"{spec.name}{Step.NET}",
                model_version=-1,
                input_map={IMAGE: names.network},
                output_map=answers,
            ),
        )
    )


def _fill_prep(config: ModelConfig, spec: ModelSpec, serving: Serving, profile: Profile) -> None:
    names, canvas = spec.tensors, spec.geometry.size
    config.backend = "dali" if profile is Profile.GPU else "python"
    config.input.extend(_wire_inputs(spec, ragged=True))
    config.output.append(ModelOutput(name=names.network, data_type=TYPE_FP32, dims=[1, *canvas]))
    _fill_execution(config, profile)
    if profile is Profile.GPU:
        config.model_warmup.extend(_prep_warm_up(spec, size) for size in warm_up_batches(serving))


def _fill_net(config: ModelConfig, spec: ModelSpec, serving: Serving, profile: Profile) -> None:
    image = ModelInput(name=IMAGE, data_type=TYPE_FP32, dims=[1, *spec.geometry.size])
    config.input.append(image)
    config.output.extend(_answers(spec, serving, MASK))
    if profile is Profile.CPU:
        _fill_openvino(config, serving)
        return
    _fill_execution(config, profile)
    config.platform = "tensorrt_plan"
    config.default_model_filename = "model.plan"
    _fill_parameters(
        config,
        engine=f"TensorRT {serving.gpu}",
        precision=str(serving.gpu),
        **{f"{TUNED}{key}": str(value) for key, value in serving.tuned_gpu.chosen.items()},
    )
    graphs = [CUDA.GraphSpec(batch_size=size) for size in graph_batches(serving)]
    for graph in graphs:
        graph.input[IMAGE].dim.extend(image.dims)
    config.optimization.cuda.CopyFrom(CUDA(graphs=True, graph_spec=graphs, output_copy_stream=True))
    config.optimization.input_pinned_memory.CopyFrom(PINNED(enable=True))
    config.optimization.output_pinned_memory.CopyFrom(PINNED(enable=True))
    zeros = ModelWarmup.Input(data_type=TYPE_FP32, dims=image.dims, zero_data=True)
    config.model_warmup.extend(
        ModelWarmup(name=f"batch_{size}", batch_size=size, inputs={IMAGE: zeros})
        for size in warm_up_batches(serving)
    )


def _fill_openvino(config: ModelConfig, serving: Serving) -> None:
    """No batcher: a request that has been started does not wait for those that came with it."""
    tuned, kind = serving.tuned_cpu, ModelInstanceGroup.KIND_CPU
    config.backend = "python"
    config.instance_group.append(ModelInstanceGroup(count=tuned.instances, kind=kind))
    _fill_parameters(
        config,
        engine=f"OpenVINO {serving.cpu}",
        precision=str(serving.cpu),
        file=serving.cpu_file,
        **tuned_parameters(tuned.compilation, serving.cores),
    )


def _prep_warm_up(spec: ModelSpec, batch: int) -> ModelWarmup:
    """Black slices that fill the canvas; a region and a size of zeros would be refused."""
    names, warm = spec.tensors, ModelWarmup.Input
    inputs = {
        names.image: warm(data_type=TYPE_INT16, dims=spec.geometry.size, zero_data=True),
        names.region: warm(data_type=TYPE_FP32, dims=[4], input_data_file="region"),
        names.size: warm(data_type=TYPE_INT32, dims=[2], input_data_file="size"),
        names.intensity: warm(data_type=TYPE_FP32, dims=[4], zero_data=True),
    }
    return ModelWarmup(name=f"batch_{batch}", batch_size=batch, inputs=inputs)


def _fill_execution(config: ModelConfig, profile: Profile) -> None:
    """One instance, and a batcher as Triton has it by itself."""
    kind = ModelInstanceGroup.KIND_GPU if profile is Profile.GPU else ModelInstanceGroup.KIND_CPU
    config.dynamic_batching.SetInParent()
    config.instance_group.append(ModelInstanceGroup(count=1, kind=kind))


def _fill_parameters(config: ModelConfig, **values: str) -> None:
    for key, value in values.items():
        config.parameters[key].CopyFrom(ModelParameter(string_value=value))


def _wire_inputs(spec: ModelSpec, *, ragged: bool = False) -> list[ModelInput]:
    names = spec.tensors
    image = ModelInput(
        name=names.image, data_type=TYPE_INT16, dims=[-1, -1], allow_ragged_batch=ragged
    )
    return [
        image,
        ModelInput(name=names.region, data_type=TYPE_FP32, dims=[4]),
        ModelInput(name=names.size, data_type=TYPE_INT32, dims=[2]),
        ModelInput(name=names.intensity, data_type=TYPE_FP32, dims=[4]),
    ]


def _answers(spec: ModelSpec, serving: Serving, mask: str) -> list[ModelOutput]:
    canvas = spec.geometry.size
    scores = serving.scores or len(spec.segments) + 1
    known = {
        Head.UNCERTAINTY: (TYPE_UINT8, canvas),
        Head.LOGITS: (TYPE_FP32, (scores, *canvas)),
        Head.EMBEDDING: (TYPE_FP32, (serving.embedding,)),
    }
    heads = [
        ModelOutput(name=str(head), data_type=known[head][0], dims=known[head][1])
        for head in spec.heads
    ]
    return [ModelOutput(name=mask, data_type=TYPE_UINT8, dims=canvas), *heads]


def _ascending(sizes: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(sizes)))
