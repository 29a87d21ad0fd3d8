"""Amazon SageMaker from a notebook; what is here imports boto3 when it is called."""

from __future__ import annotations

from typing import Any

from tfserve.errors import missing_extra


def boto3_client(service: str, **config: Any) -> Any:
    """A client of the default session, with botocore's ``config``."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise missing_extra("boto3", "sagemaker") from None
    return boto3.client(service, config=Config(**config))
