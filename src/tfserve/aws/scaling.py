"""Autoscaling of an endpoint's instances, whichever SDK made it. Needs boto3 alone."""

from __future__ import annotations

from typing import Any

from tfserve.aws import boto3_client

SERVICE, NAMESPACE = "application-autoscaling", "sagemaker"
DIMENSION = "sagemaker:variant:DesiredInstanceCount"
OUT_SECONDS, IN_SECONDS = 60, 300
"""Pauses after adding instances and after taking some away: load comes faster than it goes."""


def autoscale(
    endpoint_name: str,
    *,
    invocations_per_minute: float,
    min_instances: int = 1,
    max_instances: int = 4,
    variant: str = "AllTraffic",
    client: Any = None,
) -> None:
    """Keep a real-time endpoint at so many invocations per minute and instance.

    Measure what one instance bears, and give about two thirds of it. ``client`` is boto3's for
    ``application-autoscaling``.
    """
    metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    _follow(
        client or boto3_client(SERVICE),
        f"endpoint/{endpoint_name}/variant/{variant}",
        (min_instances, max_instances),
        {"TargetValue": invocations_per_minute, "PredefinedMetricSpecification": metric},
    )


def autoscale_async(
    endpoint_name: str,
    *,
    backlog_per_instance: float = 5,
    max_instances: int = 4,
    variant: str = "AllTraffic",
    client: Any = None,
    cloudwatch: Any = None,
) -> None:
    """Keep an asynchronous endpoint at so many waiting requests per instance, and at none idle.

    When all instances are gone there are none to divide the backlog by: the first is brought back
    by an alarm on ``HasBacklogWithoutCapacity``, named after the endpoint.
    """
    client, cloudwatch = client or boto3_client(SERVICE), cloudwatch or boto3_client("cloudwatch")
    resource = f"endpoint/{endpoint_name}/variant/{variant}"
    metric = {
        "MetricName": "ApproximateBacklogSizePerInstance",
        "Namespace": "AWS/SageMaker",
        "Dimensions": [{"Name": "EndpointName", "Value": endpoint_name}],
        "Statistic": "Average",
    }
    _follow(
        client,
        resource,
        (0, max_instances),
        {"TargetValue": backlog_per_instance, "CustomizedMetricSpecification": metric},
    )
    policy = client.put_scaling_policy(
        PolicyName="tfserve-from-zero",
        ServiceNamespace=NAMESPACE,
        ResourceId=resource,
        ScalableDimension=DIMENSION,
        PolicyType="StepScaling",
        StepScalingPolicyConfiguration={
            "AdjustmentType": "ChangeInCapacity",
            "MetricAggregationType": "Average",
            "Cooldown": IN_SECONDS,
            "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
        },
    )
    cloudwatch.put_metric_alarm(
        AlarmName=f"tfserve-{endpoint_name}-from-zero",
        AlarmActions=[policy["PolicyARN"]],
        Namespace="AWS/SageMaker",
        MetricName="HasBacklogWithoutCapacity",
        Dimensions=[{"Name": "EndpointName", "Value": endpoint_name}],
        Statistic="Average",
        ComparisonOperator="GreaterThanOrEqualToThreshold",
        Threshold=1,
        Period=60,
        EvaluationPeriods=2,
        TreatMissingData="missing",
    )


def _follow(client: Any, resource: str, bounds: tuple[int, int], target: dict[str, Any]) -> None:
    """Target tracking within ``bounds``."""
    what = {
        "ServiceNamespace": NAMESPACE,
        "ResourceId": resource,
        "ScalableDimension": DIMENSION,
    }
    client.register_scalable_target(**what, MinCapacity=bounds[0], MaxCapacity=bounds[1])
    cooldown = {"ScaleOutCooldown": OUT_SECONDS, "ScaleInCooldown": IN_SECONDS}
    client.put_scaling_policy(
        **what,
        PolicyName="tfserve-target",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={**target, **cooldown},
    )
