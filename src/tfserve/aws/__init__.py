"""Amazon SageMaker from a notebook; what is here imports boto3 when it is called."""

from __future__ import annotations

import os
from typing import Any

from tfserve.errors import CloudError, missing_extra


def boto3_client(service: str, **config: Any) -> Any:
    """A client of the default session, with botocore's ``config``.

    Raises InstallError without boto3, and CloudError where nothing names a region.
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import NoRegionError
    except ImportError:
        raise missing_extra("boto3", "sagemaker") from None
    try:  # boto3 itself reads AWS_DEFAULT_REGION alone, AWS's other tools both
        region = os.environ.get("AWS_REGION")
        return boto3.client(service, region_name=region, config=Config(**config))
    except NoRegionError:
        raise no_region() from None


def no_region() -> CloudError:
    """Where nothing says which."""
    return CloudError(
        "aws.region", "found no region; expected AWS_REGION, or one set by `aws configure`"
    )
