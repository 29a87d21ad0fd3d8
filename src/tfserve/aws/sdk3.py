"""Jobs and endpoints with version 3 of the SageMaker Python SDK.

Each function fills in one of the SDK's own objects and returns it; keyword arguments that it does
not know go to the SDK as they are.

    from tfserve.aws import sdk3

    trainer = sdk3.trainer(hparams, role=role, instance_type="ml.g5.xlarge", spot=True)
    trainer.train(input_data_config=sdk3.channels({"train": "s3://bucket/tables"}))
    builder = sdk3.builder("s3://bucket/model.tar.gz", role=role, instance_type="ml.m5.xlarge")
    builder.build(model_name="tickets")
    endpoint = builder.deploy(endpoint_name="tickets")
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfserve.aws import boto3_session, plans
from tfserve.aws.containers import uri
from tfserve.aws.metrics import metric_definitions, objective
from tfserve.aws.source import ENTRY_POINT, source_dir
from tfserve.errors import HParamsError, InstallError
from tfserve.hparams import HParams, searched

try:
    from sagemaker.core import image_uris, parameter, shapes
    from sagemaker.core.training.configs import Compute, InputData, SourceCode
    from sagemaker.core.transformer import Transformer
    from sagemaker.serve import ModelBuilder
    from sagemaker.train import ModelTrainer
    from sagemaker.train.distributed import Torchrun
    from sagemaker.train.tuner import HyperparameterTuner
except ImportError:
    raise InstallError(
        "install.missing_sdk",
        "this needs version 3 of the SageMaker Python SDK: pip install 'sagemaker>=3.27'",
    ) from None


def trainer(
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
    training_image: str | None = None,
    **more: Any,
) -> ModelTrainer:
    """A training job: ``train(input_data_config=channels({"train": uri}))`` starts it.

    Parameters
    ----------
    spot : on Spot instances; with ``checkpoint_s3_uri`` an interruption costs minutes
    max_run : seconds
    distributed : a process per GPU, by torchrun; for several GPUs or instances
    transformers_version : of the container; the newest one otherwise
    training_image : an image of one's own instead

    Raises
    ------
    HParamsError
        For what the job would end with.
    """
    hp, values = plans.checked(hparams)
    if training_image is None:
        training_image = _image("training", instance_type, transformers_version)
    waiting = {"max_wait_time_in_seconds": plans.SPOT_WAIT * max_run} if spot else {}
    if checkpoint_s3_uri is not None:
        more["checkpoint_config"] = shapes.CheckpointConfig(s3_uri=checkpoint_s3_uri)
    job = ModelTrainer(
        training_image=training_image,
        role=role,
        source_code=SourceCode(
            source_dir=str(source_dir(tempfile.mkdtemp(prefix="tfserve-"))),
            entry_script=ENTRY_POINT,
            requirements="requirements.txt",
        ),
        distributed=Torchrun() if distributed else None,
        compute=Compute(
            instance_type=instance_type,
            instance_count=instance_count,
            enable_managed_spot_training=spot,
        ),
        stopping_condition=shapes.StoppingCondition(max_runtime_in_seconds=max_run, **waiting),
        hyperparameters={name: _quotable(name, value) for name, value in values.items()},
        **more,
    )
    definitions = metric_definitions(hp.task_name)
    return job.with_metric_definitions(
        [shapes.MetricDefinition(name=d["Name"], regex=d["Regex"]) for d in definitions]
    )


def channels(uris: Mapping[str, str]) -> list[InputData]:
    """Channel → S3 address or local folder, as ``train`` and ``tune`` take them."""
    return [InputData(channel_name=name, data_source=uri) for name, uri in uris.items()]


def tuner(
    training: ModelTrainer,
    *,
    search: Sequence[str] | None = None,
    metric: str | None = None,
    max_jobs: int = 12,
    max_parallel_jobs: int = 2,
    warm_start_from: Iterable[str] = (),
    **more: Any,
) -> HyperparameterTuner:
    """A tuning job over what ``trainer`` gave: ``tune(channels({"train": uri}))`` starts it.

    Parameters
    ----------
    search : names of hyperparameters; by default all that have a range and no value
    metric : the dev metric to tune for; by default the one that chooses a run's best checkpoint
    warm_start_from : names of earlier tuning jobs to learn from
    """
    hp = HParams.parse(training.hyperparameters)
    name, direction = objective(hp.task_name, metric or hp.metric_for_best_model)
    parents = [
        shapes.ParentHyperParameterTuningJob(hyper_parameter_tuning_job_name=parent)
        for parent in warm_start_from
    ]
    if parents:
        more["warm_start_config"] = shapes.HyperParameterTuningJobWarmStartConfig(
            parent_hyper_parameter_tuning_jobs=parents, warm_start_type="TransferLearning"
        )
    return HyperparameterTuner(
        training,
        name,
        plans.parameters(parameter, searched(search, training.hyperparameters)),
        metric_definitions(hp.task_name),
        objective_type=direction,
        max_jobs=max_jobs,
        max_parallel_jobs=max_parallel_jobs,
        **more,
    )


def builder(
    model_data: str,
    *,
    role: str,
    instance_type: str,
    environment: Mapping[str, str] | None = None,
    transformers_version: str | None = None,
    image_uri: str | None = None,
    **more: Any,
) -> ModelBuilder:
    """A model from a ``model.tar.gz`` of ``tfserve package`` or of a training job.

    ``build(model_name=…)`` makes the model, ``deploy(endpoint_name=…)`` an endpoint of it:
    real-time, or serverless or asynchronous by the SDK's ``inference_config``. ``environment``
    holds ``TFSERVE_…`` settings.
    """
    return ModelBuilder(
        s3_model_data_url=model_data,
        image_uri=image_uri or _image("inference", instance_type, transformers_version),
        role_arn=role,
        instance_type=instance_type,
        env_vars={**plans.MODEL_ENVIRONMENT, **(environment or {})},
        **more,
    )


def batch_transform(
    model_name: str,
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
    job = Transformer(
        model_name,
        instance_count,
        instance_type,
        output_path=output_path,
        max_payload=max_payload,
        **plans.TRANSFORM,
    )
    job.transform(data, wait=wait, logs=wait, **plans.TRANSFORM_INPUT, **more)
    return job


def _image(scope: str, instance_type: str, transformers_version: str | None) -> str:
    region = boto3_session().region_name
    return uri(image_uris, scope, region, instance_type, transformers_version)


def _quotable(name: str, value: str) -> str:
    """A value without an apostrophe, which would end the quotes that the SDK's driver puts."""
    if "'" not in value:
        return value
    if value.startswith("{"):  # JSON has another way to write it
        return value.replace("'", "\\u0027")
    raise HParamsError(
        "hparams.value", f"{name}: found an apostrophe; expected none, version 3 of the SDK breaks"
    )
