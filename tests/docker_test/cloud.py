"""A stand-in for AWS on this machine: moto's server, asked through boto3 and the SDKs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from environments import environment, variables
from servers import free_port

SOURCES = Path(__file__).parents[2] / "src"
REGION, ROLE, BUCKET = "eu-west-1", "arn:aws:iam::123456789012:role/tfserve", "tables"


@dataclass(frozen=True)
class Cloud:
    """Its address, and clients of its services."""

    url: str
    folder: Path

    def client(self, service: str) -> Any:
        keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none"}
        return boto3.client(service, endpoint_url=self.url, region_name=REGION, **keys)

    @property
    def variables(self) -> dict[str, str]:
        """Of a process that shall see this cloud and no other, and tell nobody."""
        settings = self.folder / "sagemaker.yaml"
        settings.write_text(
            "SchemaVersion: '1.0'\n"
            "SageMaker:\n  PythonSDK:\n    Modules:\n"
            f"      TelemetryOptOut: true\n      Session:\n        DefaultS3Bucket: {BUCKET}\n"
        )
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
            "SAGEMAKER_USER_CONFIG_OVERRIDE": str(settings),
            "SAGEMAKER_VALIDATE_ROLE": "false",
            "SAGEMAKER_SUPPRESS_V2_WARNING": "1",
            "PYTHONPATH": str(SOURCES),
        }

    def run(self, sdk: str, code: str) -> Any:
        """What a piece of Python prints as its last line, run with version ``sdk`` of the SDK."""
        bin_folder = environment(f"sdk-{sdk}")
        given = variables(bin_folder, **self.variables)
        done = subprocess.run(
            [bin_folder / "python", "-W", "ignore", "-c", code],
            env=given, cwd=self.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def cloud(folder: Path, name: str = "sdk-2") -> Iterator[Cloud]:
    """From its first answer to its end, with a bucket and a role."""
    bin_folder, port = environment(name), free_port()
    process = subprocess.Popen(
        [bin_folder / "moto_server", "--host", "127.0.0.1", "--port", str(port)],
        env=variables(bin_folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    found = Cloud(f"http://127.0.0.1:{port}", folder)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                found.client("s3").create_bucket(
                    Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
                )
                break
            except Exception:
                assert process.poll() is None and time.monotonic() < end
                time.sleep(0.2)
        found.client("iam").create_role(
            RoleName=ROLE.rpartition("/")[2], AssumeRolePolicyDocument=json.dumps({})
        )
        yield found
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(30)
