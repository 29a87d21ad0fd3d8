"""What a stack needs in S3: under names made of their content, so that the same is sent once."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore import exceptions as boto

from tfserve.aws.stack.place import Place, Say, told
from tfserve.aws.stack.preflight import Bucket
from tfserve.errors import CloudError
from tfserve.files import sha256

LAMBDA = Path(__file__).parents[1] / "lambda_handler.py"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip knows: its entry has it, so that the same code is the same bytes."""


@dataclass(frozen=True)
class Sources:
    """Files to upload by their keys.

    Attributes
    ----------
    model, code : keys of the model's archive and of the Lambda's code
    files : key → file
    """

    model: str
    code: str
    files: dict[str, Path]


def sources(archive: Path, stack: str, folder: Path) -> Sources:
    """Name the archive and the Lambda's code, which is zipped in ``folder``, by their content."""
    code = folder / "lambda.zip"
    with zipfile.ZipFile(code, "w", zipfile.ZIP_DEFLATED) as packed:
        entry = zipfile.ZipInfo("lambda_handler.py", EPOCH)
        entry.external_attr = 0o644 << 16
        packed.writestr(entry, LAMBDA.read_bytes())
    model, packed_code = (
        f"{_prefix(stack)}{sha256(file)}/{name}"
        for file, name in ((archive, "model.tar.gz"), (code, "lambda.zip"))
    )
    return Sources(model, packed_code, {model: archive, packed_code: code})


def upload(place: Place, bucket: Bucket, found: Sources, say: Say) -> None:
    """Send what is not there yet, in parts and checked by SHA-256 on arrival."""
    client = place.client("s3")
    if not bucket.exists:
        _make(place, client, bucket.name)
        say(f"made the bucket {bucket.name}")
    for key, file in found.files.items():
        size = file.stat().st_size
        if _is_there(client, place, bucket.name, key, size):
            say(f"{file.name}: already in s3://{bucket.name}/{key}")
            continue
        with told(f"upload {file.name} to {bucket.name}"):
            more = {"ChecksumAlgorithm": "SHA256", "ExpectedBucketOwner": place.account}
            client.upload_file(str(file), bucket.name, key, ExtraArgs=more)
        say(f"{file.name}: {size / 1e6:,.1f} MB to s3://{bucket.name}/{key}")


def remove(place: Place, bucket: str, stack: str) -> int:
    """Delete all that was uploaded for a stack; returns how many files."""
    client = place.client("s3")
    removed = 0
    with told(f"delete files in {bucket}"):
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=_prefix(stack), ExpectedBucketOwner=place.account
        )
        for page in pages:
            keys = [{"Key": found["Key"]} for found in page.get("Contents", [])]
            if not keys:
                continue
            done = client.delete_objects(
                Bucket=bucket, Delete={"Objects": keys, "Quiet": True},
                ExpectedBucketOwner=place.account,
            )  # fmt: skip
            if failed := done.get("Errors"):
                reason = failed[0].get("Message", "")
                raise CloudError("aws.refused", f"cannot delete {failed[0]['Key']}: {reason}")
            removed += len(keys)
    return removed


def _prefix(stack: str) -> str:
    return f"tfserve/{stack}/"


def _is_there(client: Any, place: Place, bucket: str, key: str, size: int) -> bool:
    with told(f"look into the bucket {bucket}"):
        try:
            head = client.head_object(Bucket=bucket, Key=key, ExpectedBucketOwner=place.account)
        except boto.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            raise
    return int(head["ContentLength"]) == size


def _make(place: Place, client: Any, name: str) -> None:
    """A private bucket without parts of broken uploads; S3 encrypts what is in it by default."""
    where = {"CreateBucketConfiguration": {"LocationConstraint": place.region}}
    with told(f"make the bucket {name}"):
        # The first region is the one that must not be named.
        client.create_bucket(Bucket=name, **({} if place.region == "us-east-1" else where))
        client.put_public_access_block(
            Bucket=name,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True, "IgnorePublicAcls": True,
                "BlockPublicPolicy": True, "RestrictPublicBuckets": True,
            },
        )  # fmt: skip
        client.put_bucket_lifecycle_configuration(
            Bucket=name,
            LifecycleConfiguration={"Rules": [{
                "ID": "broken-uploads", "Status": "Enabled", "Filter": {"Prefix": ""},
                "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
            }]},
        )  # fmt: skip
