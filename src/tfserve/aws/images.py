"""Container images: which one an endpoint takes, and the repository that its role may pull from."""

from __future__ import annotations

import re
from typing import Any

from tfserve.aws.containers import uri
from tfserve.errors import CloudError

HUGGINGFACE = "/huggingface-pytorch-"
"""In the names of HuggingFace's containers."""

URI = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr(?:-fips)?\.(?P<region>[\w-]+)\.amazonaws\.com(?:\.cn)?"
    r"/(?P<name>[a-z0-9._/-]+?)(?::[\w.-]+|@sha256:[0-9a-f]{64})?"
)


def inference(region: str, instance_type: str) -> str:
    """The newest HuggingFace container that the installed SageMaker SDK and tfserve both know.

    Raises CloudError where no SDK is installed.
    """
    try:
        return uri(_sdk(), "inference", region, instance_type)
    except ValueError as error:  # a region or an instance type that it does not know
        raise CloudError("aws.image", f"the SageMaker SDK knows no container: {error}") from None


def repository(image: str, region: str, partition: str) -> str:
    """The ARN of an image's repository. Raises CloudError for what is no image of the region."""
    found = URI.fullmatch(image)
    if found is None:
        raise CloudError(
            "aws.image",
            f"found the image {image!r}; expected one of ECR, such as "
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com/tfserve:1: SageMaker takes no other",
        )
    if found["region"] != region:
        raise CloudError(
            "aws.image",
            f"the image is in {found['region']}; expected one in {region}, where the endpoint will "
            "be",
        )
    place = f"{found['region']}:{found['account']}"
    return f"arn:{partition}:ecr:{place}:repository/{found['name']}"


def _sdk() -> Any:
    """The module ``image_uris`` of either generation of the SDK."""
    try:
        from sagemaker.core import image_uris
    except ImportError:
        try:
            from sagemaker import image_uris
        except ImportError:
            raise CloudError(
                "aws.image",
                "found no SageMaker SDK, which knows the HuggingFace containers; expected one (pip "
                "install sagemaker), or an image given with --image",
            ) from None
    return image_uris
