"""Version 3 of the SDK: what its calls leave at AWS, as AWS's own API tells."""

from __future__ import annotations

import json

from cloud import BUCKET, ROLE, Cloud

from tfserve.aws.metrics import metric_definitions

HPARAMS = {"task_name": "ner", "model_name": "org/encoder", "learning_rate": 3e-5,
           "class_weights": {"it's rare": 3.0}, "use_bbox": True,
           "metric_for_best_model": "recall"}  # fmt: skip
START = f"""
import json
from tfserve.aws import sdk3
hparams, role = {HPARAMS!r}, {ROLE!r}
"""


def test_a_training_job(aws: Cloud) -> None:
    name, definitions = aws.run("3", START + f"""
from sagemaker.core.shapes import OutputDataConfig
job = sdk3.trainer(hparams, role=role, instance_type="ml.g5.12xlarge", spot=True, max_run=3600,
                   checkpoint_s3_uri="s3://{BUCKET}/checkpoints", distributed=True,
                   output_data_config=OutputDataConfig(s3_output_path="s3://{BUCKET}/models"))
job.train(sdk3.channels({{"train": "s3://{BUCKET}/train"}}), wait=False)
definitions = [{{"Name": d.name, "Regex": d.regex}} for d in job._metric_definitions]
print(json.dumps([job._latest_training_job.training_job_name, definitions]))
""")  # fmt: skip
    assert definitions == metric_definitions("ner")
    found = aws.client("sagemaker").describe_training_job(TrainingJobName=name)
    assert found["EnableManagedSpotTraining"] is True
    assert found["StoppingCondition"]["MaxWaitTimeInSeconds"] == 7200
    assert found["CheckpointConfig"]["S3Uri"] == f"s3://{BUCKET}/checkpoints"
    image = found["AlgorithmSpecification"]["TrainingImage"]
    assert "huggingface-pytorch-training:2.9.0-transformers5.3.0-gpu" in image
    values = found["HyperParameters"]
    assert "'" not in "".join(values.values())
    assert json.loads(values["class_weights"]) == {"it's rare": 3.0}
    channels = {channel["ChannelName"] for channel in found["InputDataConfig"]}
    assert channels >= {"train", "code"}


def test_a_tuning_job_that_learns_from_another(aws: Cloud) -> None:
    name = aws.run("3", START + f"""
job = sdk3.trainer(hparams, role=role, instance_type="ml.g5.xlarge", transformers_version="4.56")
tuning = sdk3.tuner(job, max_jobs=4, search=["weight_decay"], warm_start_from=["before"])
tuning.tune(sdk3.channels({{"train": "s3://{BUCKET}/train"}}), wait=False)
print(json.dumps(tuning.latest_tuning_job.hyper_parameter_tuning_job_name))
""")  # fmt: skip
    found = aws.client("sagemaker").describe_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name
    )
    config = found["HyperParameterTuningJobConfig"]
    objective = {"Type": "Maximize", "MetricName": "best_eval_recall"}
    assert config["HyperParameterTuningJobObjective"] == objective
    rate = config["ParameterRanges"]["ContinuousParameterRanges"][0]
    assert (rate["Name"], rate["ScalingType"]) == ("weight_decay", "Logarithmic")
    parents = found["WarmStartConfig"]["ParentHyperParameterTuningJobs"]
    assert parents == [{"HyperParameterTuningJobName": "before"}]


def test_an_endpoint(aws: Cloud) -> None:
    aws.run("3", START + f"""
from pydantic import ValidationError
from sagemaker.core.training.configs import Networking
network = Networking(subnets=["subnet-1"], security_group_ids=["sg-1"])  # the SDK wants them back
builder = sdk3.builder("s3://{BUCKET}/model.tar.gz", role=role, instance_type="ml.m5.xlarge",
                       environment={{"TFSERVE_TOP_K": "2"}}, network=network)
builder.build(model_name="served")
try:
    builder.deploy(endpoint_name="served", wait=False)
except ValidationError as error:  # the stand-in tells of an empty data capture
    assert all(found["loc"][0] == "data_capture_config" for found in error.errors())
print("null")
""")  # fmt: skip
    sagemaker = aws.client("sagemaker")
    name = sagemaker.describe_endpoint(EndpointName="served")["EndpointConfigName"]
    [variant] = sagemaker.describe_endpoint_config(EndpointConfigName=name)["ProductionVariants"]
    assert (variant["ModelName"], variant["InstanceType"]) == ("served", "ml.m5.xlarge")
    container = sagemaker.describe_model(ModelName="served")["PrimaryContainer"]
    assert "huggingface-pytorch-inference:2.6.0-transformers5" in container["Image"]
    assert container["ModelDataUrl"] == f"s3://{BUCKET}/model.tar.gz"
    assert container["Environment"] == {
        "SAGEMAKER_PROGRAM": "inference.py",
        "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
        "TFSERVE_TOP_K": "2",
    }


def test_a_batch_transform_job(aws: Cloud) -> None:
    container = {"Image": "tfserve", "ModelDataUrl": f"s3://{BUCKET}/model.tar.gz"}
    aws.client("sagemaker").create_model(
        ModelName="tickets",
        PrimaryContainer=container,
        ExecutionRoleArn=ROLE,
        VpcConfig={"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]},  # the SDK wants one
    )
    name = aws.run("3", START + f"""
job = sdk3.batch_transform("tickets", "s3://{BUCKET}/in", "s3://{BUCKET}/out",
                           instance_type="ml.m5.xlarge", wait=False)
print(json.dumps(job.latest_transform_job.transform_job_name))
""")  # fmt: skip
    found = aws.client("sagemaker").describe_transform_job(TransformJobName=name)
    assert (found["BatchStrategy"], found["MaxPayloadInMB"]) == ("MultiRecord", 6)
    assert found["TransformInput"]["SplitType"] == "Line"
    assert found["TransformOutput"]["AssembleWith"] == "Line"


def test_an_apostrophe_that_would_break_the_job_is_said(aws: Cloud) -> None:
    message = aws.run("3", START + """
from tfserve.errors import HParamsError
try:
    sdk3.trainer(hparams | {"model_name": "it's"}, role=role, instance_type="ml.g5.xlarge")
except HParamsError as error:
    print(json.dumps(error.message))
""")  # fmt: skip
    assert "found an apostrophe" in message
