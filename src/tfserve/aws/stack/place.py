"""An account and a region of AWS, and what AWS says when it refuses, as our errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tfserve.aws import boto3_session, no_region
from tfserve.errors import CloudError, missing_extra, one_line

try:
    from boto3.exceptions import Boto3Error
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError
except ImportError:
    raise missing_extra("boto3", "sagemaker") from None


Say = Callable[[str], None]
"""Tells a person what happens."""

FAILED = (boto.BotoCoreError, Boto3Error, ResponseParserError)
"""What is raised where AWS was not reached, or what answered was not AWS."""


NO_CREDENTIALS = (
    boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError,
    boto.TokenRetrievalError, boto.SSOError, boto.ProfileNotFound,
)  # fmt: skip

REJECTED = (
    "ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "RequestExpired",
    "SignatureDoesNotMatch", "UnrecognizedClientException",
)  # fmt: skip
"""Codes of credentials that AWS does not accept."""


@dataclass(frozen=True)
class Place:
    """An account and a region, and who asks."""

    session: Any
    account: str
    region: str
    partition: str
    caller: str

    def client(self, service: str, **more: Any) -> Any:
        """boto3's."""
        return self.session.client(service, **more)


@contextmanager
def told(what: str) -> Iterator[None]:
    """Errors of AWS as ours; ``what`` is what was being done."""
    try:
        yield
    except NO_CREDENTIALS as e:
        raise CloudError(
            "aws.credentials",
            f"found no usable credentials for AWS ({type(e).__name__}); expected those of "
            "`aws configure` or `aws sso login`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ) from None
    except boto.NoRegionError:
        raise no_region() from None
    except boto.ClientError as error:
        raise refused(what, error) from None
    except FAILED as error:
        if isinstance(error.__context__, boto.ClientError):  # of an upload in parts
            raise refused(what, error.__context__) from None
        raise CloudError("aws.connection", f"cannot {what}: {one_line(error)}") from None


def refused(what: str, error: Any) -> CloudError:
    """A ``ClientError`` of boto's."""
    code = error.response["Error"]["Code"]
    message = " ".join(error.response["Error"].get("Message", "").split())
    if code in REJECTED:
        return CloudError(
            "aws.credentials", f"AWS does not accept the credentials ({code}); expected fresh ones"
        )
    if code in ("AccessDenied", "AccessDeniedException", "403", "UnauthorizedOperation"):
        return CloudError("aws.permission", f"this role may not {what}: {message}")
    return CloudError("aws.refused", f"cannot {what}: {message} ({code})")


def account(session: Any = None) -> Place:
    """Whose account this is, and where. Raises CloudError (``aws.credentials``, ``aws.region``)."""
    with told("read the settings of AWS"):
        session = session or boto3_session()
        if session.get_credentials() is None:
            raise boto.NoCredentialsError
    with told("ask AWS who is asking"):
        caller = session.client("sts").get_caller_identity()
    partition = caller["Arn"].split(":")[1]
    return Place(session, caller["Account"], session.region_name, partition, caller["Arn"])
