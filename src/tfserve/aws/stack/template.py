"""``template.yaml``: its text, and the parameters that a user may give."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from tfserve.errors import CloudError, missing_extra

try:
    import yaml
except ImportError:
    raise missing_extra("pyyaml", "sagemaker") from None

FOUND_OUT = ("ModelBucket", "ModelKey", "LambdaKey", "Image", "ImageRepository", "CreateLogsRole")
"""Parameters of the template that ``deploy`` fills in itself."""


def template() -> str:
    """The text of ``template.yaml``."""
    return files("tfserve.aws.stack").joinpath("template.yaml").read_text("utf-8")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads CloudFormation's short forms (``!Ref`` and the like) as what they stand for."""


def _short_form(loader: Any, tag: str, node: Any) -> Any:
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        value = value.split(".", 1) if tag == "GetAtt" else value
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {tag if tag in ("Ref", "Condition") else f"Fn::{tag}": value}


_Loader.add_multi_constructor("!", _short_form)


@cache
def parsed() -> dict[str, Any]:
    """The template, short forms written out."""
    found: dict[str, Any] = yaml.load(template(), _Loader)
    return found


def parameters(given: Mapping[str, Any]) -> dict[str, str]:
    """The template's parameters as CloudFormation takes them; None leaves one at its default.

    Raises CloudError for others, and for those that do not go together.
    """
    known = parsed()["Parameters"]
    checked: dict[str, str] = {}
    for name, value in given.items():
        if name not in known or name in FOUND_OUT:
            names = ", ".join(sorted(set(known) - set(FOUND_OUT)))
            raise CloudError("aws.parameters", f"found the parameter {name!r}; expected {names}")
        if value is not None:
            checked[name] = _checked(name, value, known[name])
    for one, other in (("DomainName", "Certificate"), ("Subnets", "SecurityGroups")):
        if bool(checked.get(one)) != bool(checked.get(other)):
            raise CloudError("aws.parameters", f"{one} and {other}: expected both, or none")
    if subnets := checked.get("Subnets"):
        if checked.get("Mode") == "serverless":
            raise CloudError("aws.parameters", "Subnets: found some; serverless has no VPC")
        if "," not in subnets:
            raise CloudError("aws.parameters", "Subnets: found one; expected two, in two zones")
    values = filled(checked)
    if int(values["MinInstances"]) > int(values["MaxInstances"]):
        raise CloudError("aws.parameters", "found MinInstances above MaxInstances")
    return checked


def filled(given: Mapping[str, str]) -> dict[str, str]:
    """With the template's defaults for what is not given."""
    known = parsed()["Parameters"].items()
    return {**{n: str(rules["Default"]) for n, rules in known if "Default" in rules}, **given}


def log_groups(stack: str) -> list[str]:
    """Names that a stack gives to log groups, which may be there from something of its name."""
    found = (r for r in parsed()["Resources"].values() if r["Type"] == "AWS::Logs::LogGroup")
    names = (r["Properties"]["LogGroupName"]["Fn::Sub"] for r in found)
    return [name.replace("${AWS::StackName}", stack) for name in names]


def instance_type(given: Mapping[str, str]) -> str:
    """Of the endpoint; serverless ones have no GPU, whatever stands there."""
    values = filled(given)
    usual = str(parsed()["Parameters"]["InstanceType"]["Default"])
    return values["InstanceType"] if values["Mode"] == "realtime" else usual


def _checked(name: str, value: Any, rules: Mapping[str, Any]) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    expected = ""
    if allowed := [str(choice) for choice in rules.get("AllowedValues", [])]:
        expected = "" if text in allowed else f"one of {', '.join(allowed)}"
    elif (pattern := rules.get("AllowedPattern")) and not re.fullmatch(pattern, text):
        expected = "an ARN, or none"
    elif rules["Type"] == "Number":
        least, most = rules.get("MinValue", 0), rules.get("MaxValue", 10**9)
        if not (re.fullmatch(r"\d{1,9}", text) and least <= int(text) <= most):
            expected = f"a whole number from {least} to {most}"
    if expected:
        raise CloudError("aws.parameters", f"{name}: found {text!r}; expected {expected}")
    return text


def kept(before: Mapping[str, str]) -> dict[str, str]:
    """Of a stack's parameters those that an update goes on with."""
    known = set(parsed()["Parameters"]) - set(FOUND_OUT)
    return {name: value for name, value in before.items() if name in known}
