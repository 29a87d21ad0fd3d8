"""Amazon SageMaker from a notebook; what is here imports boto3 when it is called."""

from __future__ import annotations

import os
from typing import Any

from tfserve.errors import CloudError, missing_extra


def boto3_session() -> Any:
    """The default session, or one with the region of AWS_REGION where that has none.

    Raises InstallError without boto3, and CloudError where nothing names a region.
    """
    try:
        import boto3
    except ImportError:
        raise missing_extra("boto3", "sagemaker") from None
    session = boto3.DEFAULT_SESSION
    if session is None or session.region_name is None:
        # boto3 itself reads AWS_DEFAULT_REGION alone, AWS's other tools both.
        session = boto3.Session(region_name=os.environ.get("AWS_REGION"))
    if session.region_name is None:
        raise no_region()
    return session


def no_region() -> CloudError:
    """Where nothing says which."""
    return CloudError(
        "aws.region", "found no region; expected AWS_REGION, or one set by `aws configure`"
    )


def boto3_client(service: str, **config: Any) -> Any:
    """A client of ``boto3_session`` with botocore's ``config``; raises what that does."""
    session = boto3_session()
    from botocore.config import Config

    return session.client(service, config=Config(**config))
