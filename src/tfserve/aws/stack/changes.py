"""Change sets: what an update would do, shown, executed, watched, and undone where it fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from botocore import exceptions as boto

from tfserve.aws.stack.place import FAILED, Place, Say, told
from tfserve.aws.stack.preflight import EMPTY, TAG, Stack
from tfserve.aws.stack.template import template
from tfserve.errors import CloudError

POLL = 5.0
"""Seconds between questions to CloudFormation."""

LONGEST = 5400
"""Seconds of a change: an endpoint takes ten minutes, a blue/green update perhaps an hour."""

ATTEMPTS = 12
"""How often a question that fails is asked again before it is given up."""

UNCHANGED = ("didn't contain changes", "No updates are to be performed")


@dataclass(frozen=True)
class Change:
    """Of one resource: ``Add``, ``Modify`` or ``Remove``; ``replaced`` says whether that makes
    another one of it: ``True``, ``False`` or ``Conditional``."""

    action: str
    resource: str
    type: str
    replaced: str

    def __str__(self) -> str:
        sign = {"Add": "+", "Remove": "-"}.get(self.action, "~")
        more = {"True": ", replaced", "Conditional": ", perhaps replaced"}.get(self.replaced, "")
        return f"  {sign} {self.resource} ({self.type}){more}"


@dataclass(frozen=True)
class Proposal:
    """A change set that waits to be executed."""

    id: str
    stack_id: str
    new: bool
    changes: list[Change]


@contextmanager
def proposed(
    place: Place, stack: str, parameters: Mapping[str, str], *, new: bool
) -> Iterator[Proposal]:
    """A change set; one that was not executed leaves nothing behind."""
    client = place.client("cloudformation")
    with told("propose changes"):
        made = client.create_change_set(
            StackName=stack,
            ChangeSetName=f"tfserve-{time.time_ns()}",
            ChangeSetType="CREATE" if new else "UPDATE",
            OnStackFailure="DELETE" if new else "ROLLBACK",
            **_wanted(template(), parameters),
        )
    try:
        with told("propose changes"):
            found = _described(client, made["Id"])
            changes = _changes(client, found)
        yield Proposal(made["Id"], made["StackId"], new, changes)
    finally:
        with told("remove what was proposed"):
            _forget(client, made["Id"], made["StackId"])


def _wanted(text: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    """What a stack shall be, as CloudFormation takes it."""
    return {
        "TemplateBody": text,
        "Parameters": [
            {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
        ],
        "Capabilities": ["CAPABILITY_IAM"],
        "Tags": [{"Key": TAG, "Value": "deploy"}],
    }


def _described(client: Any, change_set: str) -> dict[str, Any]:
    """The change set when it has been worked out."""
    while True:
        found: dict[str, Any] = client.describe_change_set(ChangeSetName=change_set)
        if found["Status"] not in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
            break
        time.sleep(POLL)
    reason = found.get("StatusReason", "")
    if found["Status"] == "FAILED" and not any(said in reason for said in UNCHANGED):
        raise CloudError("aws.failed", f"CloudFormation refuses the changes: {reason}")
    return found


def _changes(client: Any, found: dict[str, Any]) -> list[Change]:
    listed = []
    while True:
        for entry in found.get("Changes", []):
            change = entry["ResourceChange"]
            listed.append(Change(
                change["Action"], change["LogicalResourceId"], change["ResourceType"],
                change.get("Replacement", "False"),
            ))  # fmt: skip
        if not (token := found.get("NextToken")):
            return listed
        found = client.describe_change_set(ChangeSetName=found["ChangeSetId"], NextToken=token)


def _forget(client: Any, change_set: str, stack_id: str) -> None:
    """Delete a change set that was not executed, and the empty stack that a first one makes."""
    try:
        client.delete_change_set(ChangeSetName=change_set)
    except boto.ClientError as error:  # executed: it is gone, or cannot be deleted any more
        if error.response["Error"]["Code"] not in ("ChangeSetNotFound", "ValidationError",
                                                   "InvalidChangeSetStatus"):  # fmt: skip
            raise
    for _ in range(ATTEMPTS):
        status = _status(client, stack_id)
        if status == EMPTY:
            if client.list_change_sets(StackName=stack_id)["Summaries"]:  # somebody else's
                return
            client.delete_stack(StackName=stack_id)
        elif status != "DELETE_IN_PROGRESS":
            return
        time.sleep(POLL)


def _status(client: Any, stack_id: str) -> str:
    """Of a stack; that of a deleted one where there is none."""
    try:
        return str(client.describe_stacks(StackName=stack_id)["Stacks"][0]["StackStatus"])
    except boto.ClientError as error:
        if "does not exist" in str(error):
            return "DELETE_COMPLETE"
        raise


def execute(place: Place, proposal: Proposal, say: Say) -> None:
    """Make the changes. Raises CloudError when they failed and CloudFormation has undone them."""
    client = place.client("cloudformation")
    good = "CREATE_COMPLETE" if proposal.new else "UPDATE_COMPLETE"

    def act() -> None:
        client.execute_change_set(ChangeSetName=proposal.id)

    with told("execute the changes"):
        _watch(client, proposal.stack_id, act, say, good)


def delete(place: Place, stack: str, say: Say) -> None:
    """Delete the stack and wait until it is gone."""
    client = place.client("cloudformation")

    def act() -> None:
        client.delete_stack(StackName=stack)

    with told(f"delete the stack {stack}"):
        stack_id = client.describe_stacks(StackName=stack)["Stacks"][0]["StackId"]
        _watch(client, stack_id, act, say, "DELETE_COMPLETE")


def outputs(place: Place, stack: str) -> dict[str, str]:
    """What the stack tells."""
    with told("read the stack's outputs"):
        [found] = place.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}


def undo(place: Place, stack: str, before: Stack | None, say: Say) -> None:
    """Bring back what was there before: an earlier template and its parameters, or nothing."""
    if before is None:
        delete(place, stack, say)
        return
    client = place.client("cloudformation")

    def act() -> None:
        client.update_stack(StackName=stack, **_wanted(before.template, before.parameters))

    with told("bring the earlier stack back"):
        stack_id = client.describe_stacks(StackName=stack)["Stacks"][0]["StackId"]
        _watch(client, stack_id, act, say, "UPDATE_COMPLETE")


def _watch(client: Any, stack_id: str, act: Callable[[], Any], say: Say, good: str) -> None:
    """Act, and say what happens until the stack rests.

    The stack's own events say when: what describes it may lag behind. Raises CloudError when it
    does not end in ``good``.
    """
    seen = {event["EventId"] for event in _events(client, stack_id)}
    act()
    reasons: list[str] = []
    status, end, failures = "", time.monotonic() + LONGEST, 0
    while (not status or status.endswith("_IN_PROGRESS")) and time.monotonic() < end:
        time.sleep(POLL)
        try:
            events = _events(client, stack_id)
        except (boto.ClientError, *FAILED):
            failures += 1
            if failures == ATTEMPTS:
                raise
            continue
        failures = 0
        for event in events:
            if event["EventId"] in seen:
                continue
            seen.add(event["EventId"])
            now, reason = event["ResourceStatus"], event.get("ResourceStatusReason", "")
            if event.get("PhysicalResourceId") == stack_id:
                status = now
                continue
            if now.endswith("_FAILED") and "cancelled" not in reason:
                reasons.append(f"{event['LogicalResourceId']}: {reason or now}")
            if now.endswith("_COMPLETE"):
                say(f"  {event['LogicalResourceId']} {now.lower()}")
    if status != good:
        why = "; ".join(reasons[:3]) or "CloudFormation does not say why"
        raise CloudError("aws.failed", f"{_ended(status)}: {why}")


def _ended(status: str) -> str:
    """How it ended that did not end well."""
    if status == "DELETE_FAILED":
        return "not all could be deleted; `tfserve destroy` tries it again"
    if status.endswith("ROLLBACK_COMPLETE") or status == "DELETE_COMPLETE":
        return "the changes failed and were undone"
    if status.endswith("_FAILED"):
        return f"the changes failed, and so did undoing them ({status})"
    return f"the stack still is in {status or 'no known state'} after {LONGEST // 60} minutes"


def _events(client: Any, stack_id: str) -> list[dict[str, Any]]:
    """The latest, the first of them first."""
    return list(reversed(client.describe_stack_events(StackName=stack_id)["StackEvents"]))
