"""What a month costs, by AWS's own price list; where that is silent, where to look."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from botocore import exceptions as boto

from tfserve.aws.stack.place import FAILED, Place
from tfserve.aws.stack.template import filled

HOURS = 730
"""Of a month, on average."""

LIST = "us-east-1"
"""The price list is asked there, whatever region it is about."""

PAGES = "https://aws.amazon.com/sagemaker/ai/pricing"


def expected(place: Place, parameters: Mapping[str, str]) -> Iterator[str]:
    """Lines to read before agreeing."""
    values = filled(parameters)
    if values["Mode"] == "serverless":
        yield f"costs: nothing while nobody asks, then by the millisecond and gigabyte: {PAGES}"
        return
    instance = values["InstanceType"]
    least, most = int(values["MinInstances"]), int(values["MaxInstances"])
    hourly = hosting(place, instance)
    if hourly is None:
        yield f"costs: {least} to {most} {instance}, asked or not; prices: {PAGES}"
        return
    month = hourly * HOURS
    yield (
        f"costs: {month * least:,.0f} USD a month for {least} {instance} at {hourly:.3f} USD an "
        f"hour, up to {month * most:,.0f} under load; requests: docs/aws.md"
    )


def hosting(place: Place, instance: str) -> float | None:
    """USD an hour of a real-time instance in the region; None where AWS does not say."""
    filters = {"regionCode": place.region, "instanceName": instance, "component": "Hosting"}
    try:
        found = place.client("pricing", region_name=LIST).get_products(
            ServiceCode="AmazonSageMaker",
            Filters=[{"Type": "TERM_MATCH", "Field": k, "Value": v} for k, v in filters.items()],
        )["PriceList"]
        prices = {price for product in found for price in _on_demand(json.loads(product))}
    except (boto.ClientError, *FAILED, ValueError, KeyError):
        return None  # a price is no reason not to deploy
    return min(prices, default=None)


def _on_demand(product: dict[str, Any]) -> Iterator[float]:
    for term in product["terms"].get("OnDemand", {}).values():
        for dimension in term["priceDimensions"].values():
            if (price := float(dimension["pricePerUnit"].get("USD", 0))) > 0:
                yield price
