"""Jobs and endpoints with version 2 of the SageMaker Python SDK.

Each function fills in one of the SDK's own objects and returns it; keyword arguments that it does
not know go to the SDK as they are.

    from tfserve.aws import sdk2

    estimator = sdk2.estimator(hparams, role=role, instance_type="ml.g5.xlarge", spot=True)
    estimator.fit({"train": "s3://bucket/tables"})
    model = sdk2.model(estimator.model_data, role=role)
    predictor = sdk2.endpoint(model, "tickets", instance_type="ml.m5.xlarge")
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfserve.aws import plans
from tfserve.aws.containers import choose
from tfserve.aws.metrics import metric_definitions, objective
from tfserve.aws.source import ENTRY_POINT, source_dir
from tfserve.errors import InstallError
from tfserve.hparams import HParams, decoded, searched

try:
    from sagemaker import image_uris, parameter
    from sagemaker.async_inference import AsyncInferenceConfig
    from sagemaker.huggingface import HuggingFace, HuggingFaceModel
    from sagemaker.serverless import ServerlessInferenceConfig
    from sagemaker.transformer import Transformer
    from sagemaker.tuner import HyperparameterTuner, WarmStartConfig, WarmStartTypes
except ImportError:
    raise InstallError(
        "install.missing_sdk",
        "this needs version 2 of the SageMaker Python SDK: pip install 'sagemaker<3'",
    ) from None


def estimator(
    hparams: Mapping[str, Any],
    *,
    role: str,
    instance_type: str,
    instance_count: int = 1,
    spot: bool = False,
    max_run: int = 86_400,
    checkpoint_s3_uri: str | None = None,
    distributed: bool = False,
    transformers_version: str | None = None,
    **more: Any,
) -> HuggingFace:
    """A training job: ``fit({"train": uri, …})`` starts it.

    Parameters
    ----------
    spot : on Spot instances; with ``checkpoint_s3_uri`` an interruption costs minutes
    max_run : seconds
    distributed : a process per GPU, by torchrun; for several GPUs or instances
    transformers_version : of the container; the newest one otherwise

    Raises
    ------
    HParamsError
        For what the job would end with.
    """
    hp, values = plans.checked(hparams)
    container = choose(image_uris, "training", transformers_version)
    if spot:
        more = {"use_spot_instances": True, "max_wait": plans.SPOT_WAIT * max_run, **more}
    if distributed:
        more = {"distribution": {"torch_distributed": {"enabled": True}}, **more}
    return HuggingFace(
        entry_point=ENTRY_POINT,
        source_dir=str(source_dir(tempfile.mkdtemp(prefix="tfserve-"))),
        role=role,
        instance_type=instance_type,
        instance_count=instance_count,
        transformers_version=container.transformers,
        pytorch_version=container.pytorch,
        py_version=container.python,
        hyperparameters=values,
        metric_definitions=metric_definitions(hp.task_name),
        max_run=max_run,
        checkpoint_s3_uri=checkpoint_s3_uri,
        **more,
    )


def tuner(
    training: HuggingFace,
    *,
    search: Sequence[str] | None = None,
    metric: str | None = None,
    max_jobs: int = 12,
    max_parallel_jobs: int = 2,
    warm_start_from: Iterable[str] = (),
    **more: Any,
) -> HyperparameterTuner:
    """A tuning job over what ``estimator`` gave: ``fit({"train": uri, …})`` starts it.

    Parameters
    ----------
    search : names of hyperparameters; by default all that have a range and no value
    metric : the dev metric to tune for; by default the one that chooses a run's best checkpoint
    warm_start_from : names of earlier tuning jobs to learn from
    """
    given = {name: decoded(v) for name, v in training.hyperparameters().items()}
    hp = HParams.parse(given)
    name, direction = objective(hp.task_name, metric or hp.metric_for_best_model)
    parents = set(warm_start_from)
    if parents:
        more["warm_start_config"] = WarmStartConfig(WarmStartTypes.TRANSFER_LEARNING, parents)
    return HyperparameterTuner(
        training,
        name,
        plans.parameters(parameter, searched(search, given)),
        metric_definitions(hp.task_name),
        objective_type=direction,
        max_jobs=max_jobs,
        max_parallel_jobs=max_parallel_jobs,
        **more,
    )


def model(
    model_data: str,
    *,
    role: str,
    environment: Mapping[str, str] | None = None,
    transformers_version: str | None = None,
    **more: Any,
) -> HuggingFaceModel:
    """A model from a ``model.tar.gz`` of ``tfserve package`` or of a training job.

    ``environment`` holds ``TFSERVE_…`` settings.
    """
    container = choose(image_uris, "inference", transformers_version)
    return HuggingFaceModel(
        model_data=model_data,
        role=role,
        transformers_version=container.transformers,
        pytorch_version=container.pytorch,
        py_version=container.python,
        env={**plans.MODEL_ENVIRONMENT, **(environment or {})},
        **more,
    )


def endpoint(
    served: HuggingFaceModel,
    endpoint_name: str,
    *,
    instance_type: str,
    instance_count: int = 1,
    **more: Any,
) -> Any:
    """A real-time endpoint; returns the SDK's predictor. ``scaling.autoscale`` makes it grow."""
    return served.deploy(instance_count, instance_type, endpoint_name=endpoint_name, **more)


def serverless_endpoint(
    served: HuggingFaceModel,
    endpoint_name: str,
    *,
    memory_size_in_mb: int = 4096,
    max_concurrency: int = 5,
    **more: Any,
) -> Any:
    """A serverless endpoint, paid by use; requests hold at most 4 MB."""
    config = ServerlessInferenceConfig(memory_size_in_mb, max_concurrency)
    return served.deploy(serverless_inference_config=config, endpoint_name=endpoint_name, **more)


def async_endpoint(
    served: HuggingFaceModel,
    endpoint_name: str,
    *,
    output_path: str,
    instance_type: str,
    instance_count: int = 1,
    **more: Any,
) -> Any:
    """An asynchronous endpoint: answers land in ``output_path``; requests hold up to 1 GB."""
    return served.deploy(
        instance_count,
        instance_type,
        endpoint_name=endpoint_name,
        async_inference_config=AsyncInferenceConfig(output_path=output_path),
        **more,
    )


def batch_transform(
    served: HuggingFaceModel,
    data: str,
    output_path: str,
    *,
    instance_type: str,
    instance_count: int = 1,
    max_payload: int = 6,
    wait: bool = True,
    **more: Any,
) -> Transformer:
    """Answer the JSON Lines files under ``data``: each gets a file with a line per line.

    ``max_payload`` is in MB; ``more`` goes to ``Transformer.transform`` (``join_source``, …).
    """
    job = served.transformer(
        instance_count,
        instance_type,
        output_path=output_path,
        max_payload=max_payload,
        **plans.TRANSFORM,
    )
    job.transform(data, wait=wait, logs=wait, **plans.TRANSFORM_INPUT, **more)
    return job
