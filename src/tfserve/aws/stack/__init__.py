"""From a model to a public API: one CloudFormation stack of ``template.yaml``.

``deploy`` is the story; its chapters are ``preflight`` (everything that can be known to go wrong
before anything is made), ``uploads`` (the archive and the Lambda's code, by their content),
``changes`` (change sets, shown, executed and watched), ``smoke`` (the golden records, asked through
the public URL) and ``prices`` (what a month will cost). ``destroy`` takes all of it away.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfserve.archive import package
from tfserve.aws import images
from tfserve.aws.stack import changes, preflight, prices, smoke, template, uploads
from tfserve.aws.stack.changes import Change
from tfserve.aws.stack.place import Place, Say, account
from tfserve.errors import CloudError

__all__ = ["Deployed", "deploy", "destroy"]

ROLE = "left: the role that lets API Gateway write logs, which all APIs of the region share"


@dataclass(frozen=True)
class Deployed:
    """A model that answers.

    Attributes
    ----------
    url : where to POST
    region : where it is
    api_key_id : of the first key; API Gateway tells its value
    domain : the name of one's own and what its DNS record must point to, where there is one
    """

    url: str
    region: str
    api_key_id: str
    domain: tuple[str, str] | None = None


def deploy(
    model: Path | str,
    stack: str,
    *,
    parameters: Mapping[str, str] | None = None,
    image: str | None = None,
    bucket: str | None = None,
    dry_run: bool = False,
    agreed: Callable[[list[Change]], bool] = lambda _: True,
    say: Say = print,
    session: Any = None,
) -> Deployed | None:
    """Create or update the stack that serves a model.

    Parameters
    ----------
    model : a model directory, or its ``model.tar.gz``
    stack : its name, which the endpoint, the function and the API have too
    parameters : of ``template.yaml``, but for those that are found out here; an update keeps what
        is not given
    image : URI of the container; by default that of the stack, and for a new one the newest
        HuggingFace one that the installed SageMaker SDK knows
    bucket : for the archive; by default ``tfserve-ACCOUNT-REGION``, made where there is none
    dry_run : show what would be done, and leave nothing behind
    agreed : is shown the changes and says whether to make them
    session : boto3's; by default one of the environment

    Returns
    -------
    Deployed, or None for a dry run and for changes that were not agreed to

    Raises
    ------
    ModelError
        The archive would not start.
    CloudError
        ``aws.credentials``, ``aws.region``, ``aws.permission``, ``aws.stack_name``,
        ``aws.name_in_use``, ``aws.bucket``, ``aws.image``, ``aws.parameters``: before anything is
        made. ``aws.failed``, ``aws.smoke``: after it was undone.
    """
    place = account(session)
    found = preflight.stack(place, stack)
    kept = template.kept(found.parameters) if found else {}
    given = template.parameters({**kept, **(parameters or {})})
    preflight.may_become(place, stack, found, given)
    store = preflight.bucket(place, bucket or (found.parameters["ModelBucket"] if found else None))
    preflight.permissions(place, stack, store.name)
    uri = image or (found.parameters["Image"] if found else None)
    uri = uri or images.inference(place.region, template.instance_type(given))
    given |= {
        "Image": uri,
        "ImageRepository": images.repository(uri, place.region, place.partition),
        "CreateLogsRole": preflight.logs_role(place, found),
    }
    makes_role = found is None and given["CreateLogsRole"] == "true"
    with tempfile.TemporaryDirectory(prefix="tfserve-deploy-") as folder:
        archive = Path(model)
        if archive.is_dir():
            archive = package(archive, Path(folder) / "model.tar.gz")
        manifest = preflight.examined(archive, uri)
        sources = uploads.sources(archive, stack, Path(folder))
        given |= {
            "ModelBucket": store.name, "ModelKey": sources.model, "LambdaKey": sources.code
        }  # fmt: skip
        say(f"{place.account} in {place.region}: {'update' if found else 'create'} stack {stack}")
        for line in prices.expected(place, given):
            say(line)
        with (
            _telling(stays := list[str](), say),
            changes.proposed(place, stack, given, new=found is None) as proposal,
        ):
            for change in proposal.changes:
                say(str(change))
            if dry_run or (proposal.changes and not agreed(proposal.changes)):
                return None
            if proposal.changes:
                stays += _uploaded(stack, store.name, new=found is None)
                uploads.upload(place, store, sources, say)
                stays += [ROLE] * makes_role
                try:
                    changes.execute(place, proposal, say)
                except KeyboardInterrupt:
                    say(
                        f"CloudFormation goes on by itself with what was begun in {place.region}; "
                        f"`tfserve destroy {stack}` removes it when it has ended"
                    )
                    raise
            else:
                say("nothing to change")
    outputs = changes.outputs(place, stack)
    with _telling(stays, say):
        try:
            smoke.moved(place, outputs["EndpointName"], outputs["EndpointConfigName"])
            smoke.ask(place, outputs["Url"], outputs["ApiKeyId"], manifest, uri)
        except CloudError as error:
            if proposal.changes:
                _undo(place, stack, found, error, say)
            raise
    say(f"{len(manifest.golden)} golden records were answered as in training")
    domain = given.get("DomainName")
    return Deployed(
        outputs["Url"], place.region, outputs["ApiKeyId"],
        (domain, outputs["DomainTarget"]) if domain else None,
    )  # fmt: skip


def _undo(
    place: Place, stack: str, found: preflight.Stack | None, error: CloudError, say: Say
) -> None:
    """Undo changes that were made; what went wrong first is told in any case."""
    say(f"undoing it: {error}")
    try:
        changes.undo(place, stack, found, say)
    except CloudError as second:
        raise CloudError(error.code, f"{error}; undoing that failed too: {second}") from error


def _uploaded(stack: str, bucket: str, *, new: bool) -> list[str]:
    """What to say of uploads where a deployment fails."""
    left = f"left: what was uploaded to s3://{bucket}/tfserve/{stack}/, for the next attempt"
    return [left, *[f"`tfserve destroy {stack} --bucket {bucket}` removes it"] * new]


@contextmanager
def _telling(stays: Iterable[str], say: Say) -> Iterator[None]:
    """Where a deployment fails, tell what it leaves behind."""
    try:
        yield
    except (Exception, KeyboardInterrupt):
        for line in stays:
            say(line)
        raise


def destroy(
    stack: str,
    *,
    bucket: str | None = None,
    agreed: Callable[[str], bool] = lambda _: True,
    say: Say = print,
    session: Any = None,
) -> None:
    """Delete the stack and what was uploaded for it, and tell what stays.

    Parameters
    ----------
    bucket : of what was uploaded for a stack that is gone, where it is not the default one
    agreed : is told what will be deleted and where, and says whether to

    Raises CloudError where there is nothing of such a stack of tfserve's, or it cannot be deleted.
    """
    place = account(session)
    found = preflight.stack(place, stack)
    name = found.parameters["ModelBucket"] if found else bucket
    store = preflight.bucket(place, name, needed=False)
    what = f"the stack {stack} with its endpoint and API, and" if found else "what is left of it:"
    where = f"{place.account} in {place.region}"
    if not agreed(f"{where}: delete {what} the files in {store.name}/tfserve/{stack}/?"):
        return
    if found is not None:
        changes.delete(place, stack, say)
        say(f"deleted the stack {stack}")
    rest = f"`tfserve destroy {stack} --bucket {store.name}` removes what was uploaded for it"
    with _telling([rest], say):
        removed = uploads.remove(place, store.name, stack) if store.exists else 0
    if found is None and not removed:
        raise CloudError(
            "aws.not_found",
            f"found no stack {stack} in {place.region}, and nothing of it in {store.name}",
        )
    say(f"deleted {removed} uploaded files")
    if store.exists:
        say(f"left: the bucket {store.name} with whatever else it holds")
    if found is not None and found.parameters.get("CreateLogsRole") == "true":
        say(ROLE)
