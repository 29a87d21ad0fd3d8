"""Version 2 of the SDK: what its calls leave at AWS, as AWS's own API tells."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cloud import BUCKET, ROLE, Cloud

from tfserve.aws.metrics import metric_definitions
from tfserve.aws.scaling import autoscale, autoscale_async

HPARAMS = {"task_name": "classif", "model_name": "org/encoder", "learning_rate": 3e-5,
           "class_weights": {"it's rare": 3.0}, "use_bbox": False}  # fmt: skip
START = f"""
import json
from tfserve.aws import sdk2
hparams, role = {HPARAMS!r}, {ROLE!r}
"""


def test_a_training_job(aws: Cloud) -> None:
    name, definitions = aws.run("2", START + f"""
job = sdk2.estimator(hparams, role=role, instance_type="ml.g5.12xlarge", spot=True, max_run=3600,
                     checkpoint_s3_uri="s3://{BUCKET}/checkpoints", distributed=True,
                     output_path="s3://{BUCKET}/models")
job.fit({{"train": "s3://{BUCKET}/train"}}, wait=False)
print(json.dumps([job.latest_training_job.name, job.metric_definitions]))
""")  # fmt: skip
    found = aws.client("sagemaker").describe_training_job(TrainingJobName=name)
    assert found["EnableManagedSpotTraining"] is True
    assert found["StoppingCondition"] == {
        "MaxRuntimeInSeconds": 3600,
        "MaxWaitTimeInSeconds": 7200,
    }
    assert found["CheckpointConfig"]["S3Uri"] == f"s3://{BUCKET}/checkpoints"
    specification = found["AlgorithmSpecification"]
    assert (
        "huggingface-pytorch-training:2.8.0-transformers4.56.2-gpu"
        in (specification["TrainingImage"])
    )
    assert definitions == metric_definitions("classif")  # the stand-in for AWS makes up its own
    values = {k: json.loads(v) for k, v in found["HyperParameters"].items()}
    assert values["sagemaker_program"] == "train.py"
    assert values["sagemaker_torch_distributed_enabled"] is True
    assert json.loads(values["class_weights"]) == {"it's rare": 3.0}
    assert (values["learning_rate"], values["use_bbox"]) == ("3e-05", "false")
    uploaded = values["sagemaker_submit_directory"]
    assert uploaded.startswith("s3://") and uploaded.endswith("sourcedir.tar.gz")


def test_a_tuning_job_that_learns_from_another(aws: Cloud) -> None:
    names = aws.run("2", START + f"""
job = sdk2.estimator(hparams, role=role, instance_type="ml.g5.xlarge", transformers_version="4.49")
names = []
for parents in ([], names):
    tuning = sdk2.tuner(job, max_jobs=4, warm_start_from=parents,
                        base_tuning_job_name=f"tuning-{{len(names)}}", search=None if parents else
                        ["weight_decay", "per_device_train_batch_size", "num_train_epochs"])
    tuning.fit({{"train": "s3://{BUCKET}/train"}}, wait=False)
    names.append(tuning.latest_tuning_job.name)
print(json.dumps(names))
""")  # fmt: skip
    assert len(names) == 2
    sagemaker = aws.client("sagemaker")
    first, second = (
        sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        for name in names
    )
    objective = {"Type": "Maximize", "MetricName": "best_eval_f1_macro"}
    config = first["HyperParameterTuningJobConfig"]
    assert config["HyperParameterTuningJobObjective"] == objective
    ranges = config["ParameterRanges"]
    decay = {"Name": "weight_decay", "MinValue": "0.001", "MaxValue": "0.1"}
    assert ranges["ContinuousParameterRanges"] == [{**decay, "ScalingType": "Logarithmic"}]
    assert ranges["IntegerParameterRanges"][0]["Name"] == "num_train_epochs"
    sizes = ranges["CategoricalParameterRanges"][0]
    assert [json.loads(value) for value in sizes["Values"]] == ["4", "8", "16", "32"]
    parents = second["WarmStartConfig"]["ParentHyperParameterTuningJobs"]
    assert [parent["HyperParameterTuningJobName"] for parent in parents] == [names[0]]


def test_endpoints_of_every_kind(aws: Cloud) -> None:
    aws.run("2", START + f"""
model = sdk2.model("s3://{BUCKET}/model.tar.gz", role=role, environment={{"TFSERVE_TOP_K": "2"}})
sdk2.endpoint(model, "real-time", instance_type="ml.m5.xlarge", wait=False)
model = sdk2.model("s3://{BUCKET}/model.tar.gz", role=role)
sdk2.serverless_endpoint(model, "serverless", wait=False)
model = sdk2.model("s3://{BUCKET}/model.tar.gz", role=role)
sdk2.async_endpoint(model, "async", output_path="s3://{BUCKET}/answers",
                    instance_type="ml.m5.xlarge", wait=False)
print("null")
""")  # fmt: skip
    found = {name: endpoint(aws, name) for name in ("real-time", "serverless", "async")}
    container, variant = found["real-time"][0]["PrimaryContainer"], found["real-time"][1]
    assert "huggingface-pytorch-inference:2.6.0-transformers4.51.3-cpu" in container["Image"]
    assert container["Environment"]["SAGEMAKER_PROGRAM"] == "inference.py"
    assert container["Environment"]["TFSERVE_TOP_K"] == "2"
    assert variant["ProductionVariants"][0]["InstanceType"] == "ml.m5.xlarge"
    serverless = found["serverless"][1]["ProductionVariants"][0]["ServerlessConfig"]
    assert (serverless["MemorySizeInMB"], serverless["MaxConcurrency"]) == (4096, 5)
    output = found["async"][1]["AsyncInferenceConfig"]["OutputConfig"]
    assert output["S3OutputPath"] == f"s3://{BUCKET}/answers"

    scaling = aws.client("application-autoscaling")
    autoscale("real-time", invocations_per_minute=600, client=scaling)
    autoscale_async("async", client=scaling, cloudwatch=aws.client("cloudwatch"))
    targets = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    bounds = {t["ResourceId"].split("/")[1]: (t["MinCapacity"], t["MaxCapacity"]) for t in targets}
    assert bounds == {"real-time": (1, 4), "async": (0, 4)}
    policies = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    assert sorted((p["ResourceId"].split("/")[1], p["PolicyType"]) for p in policies) == [
        ("async", "StepScaling"),
        ("async", "TargetTrackingScaling"),
        ("real-time", "TargetTrackingScaling"),
    ]
    alarm = aws.client("cloudwatch").describe_alarms()["MetricAlarms"][0]
    step = next(p for p in policies if p["PolicyType"] == "StepScaling")
    assert alarm["AlarmActions"] == [step["PolicyARN"]]


def endpoint(aws: Cloud, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and configuration of an endpoint."""
    sagemaker = aws.client("sagemaker")
    config = sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"]
    found = sagemaker.describe_endpoint_config(EndpointConfigName=config)
    model = sagemaker.describe_model(ModelName=found["ProductionVariants"][0]["ModelName"])
    return model, found


def test_a_batch_transform_job(aws: Cloud) -> None:
    name = aws.run("2", START + f"""
model = sdk2.model("s3://{BUCKET}/model.tar.gz", role=role)
job = sdk2.batch_transform(model, "s3://{BUCKET}/in", "s3://{BUCKET}/out",
                           instance_type="ml.m5.xlarge", wait=False, join_source="Input",
                           output_filter="$['id','SageMakerOutput']")
print(json.dumps(job.latest_transform_job.name))
""")  # fmt: skip
    found = aws.client("sagemaker").describe_transform_job(TransformJobName=name)
    assert (found["BatchStrategy"], found["MaxPayloadInMB"]) == ("MultiRecord", 6)
    assert found["TransformInput"]["SplitType"] == "Line"
    assert found["TransformInput"]["ContentType"] == "application/jsonlines"
    joined = {"JoinSource": "Input", "OutputFilter": "$['id','SageMakerOutput']"}
    assert found["DataProcessing"] == joined
    output = found["TransformOutput"]
    assert (output["AssembleWith"], output["Accept"]) == ("Line", "application/jsonlines")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_stepz": 3}, "did you mean max_steps?"),
        ({"model_name": "/tmp"}, "the channel `model`"),
    ],
)
def test_what_a_job_would_end_with_is_said_before(
    change: dict[str, Any], said: str, aws: Cloud
) -> None:
    message = aws.run("2", START + f"""
from tfserve.errors import HParamsError
try:
    sdk2.estimator(hparams | {change!r}, role=role, instance_type="ml.g5.xlarge")
except HParamsError as error:
    print(json.dumps(error.message))
""")  # fmt: skip
    assert said in message


def test_a_container_that_does_not_exist_is_said_with_those_that_do(aws: Cloud) -> None:
    message = aws.run("2", START + """
from tfserve.errors import HParamsError
try:
    sdk2.estimator(hparams, role=role, instance_type="ml.g5.xlarge", transformers_version="4.12")
except HParamsError as error:
    print(json.dumps(error.message))
""")  # fmt: skip
    assert "found '4.12'" in message
    assert "4.56.2" in message and "4.12" not in message.split("with")[1]
