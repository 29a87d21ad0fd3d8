"""The golden records, asked through the public URL as a client would."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from tfserve.artifact import TOLERANCE, Manifest
from tfserve.aws import images
from tfserve.aws.stack.place import Place, told
from tfserve.errors import CloudError

PATIENCE, PAUSE = 240.0, 3.0
"""Seconds until a new key and a new endpoint are known everywhere, and one without instances has
started; and between attempts."""


def moved(place: Place, endpoint: str, config: str) -> None:
    """Raises CloudError where the endpoint is not in its new configuration: alarms brought it back
    to the old one."""
    with told(f"look at the endpoint {endpoint}"):
        found = place.client("sagemaker").describe_endpoint(EndpointName=endpoint)
    if found["EndpointConfigName"] != config:
        raise CloudError(
            "aws.failed",
            f"SageMaker brought {endpoint} back to what it was: an alarm of {endpoint}-update-… "
            "tripped, as the logs of the endpoint may tell",
        )


def ask(place: Place, url: str, api_key_id: str, manifest: Manifest, image: str) -> None:
    """Raises CloudError where there is no answer, or not that of training."""
    with told("read the API key"):
        key = place.client("apigateway").get_api_key(apiKey=api_key_id, includeValue=True)["value"]
    said = _post(url, key, manifest.golden_request())
    predictions = said.get("predictions") if isinstance(said, dict) else None
    if not isinstance(predictions, list):
        raise CloudError("aws.smoke", f"{url} answers something else than predictions")
    # An image of one's own may compute in int8.
    most = TOLERANCE["bf16" if images.HUGGINGFACE in image else "int8"]
    if (off := manifest.golden_difference(predictions)) > most:
        raise CloudError(
            "aws.smoke",
            f"{url} answers the golden records otherwise than training did, by {off:.2g}",
        )


def _post(url: str, key: str, asked: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        url, json.dumps(asked).encode(), {"Content-Type": "application/json", "x-api-key": key}
    )
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(request, timeout=35) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            said = f"{error.code} {error.read(500).decode(errors='replace')}"
        except (OSError, ValueError, HTTPException) as error:
            said = str(getattr(error, "reason", error))
        if time.monotonic() > end:
            raise CloudError("aws.smoke", f"{url} does not answer: {said}")
        time.sleep(PAUSE)
