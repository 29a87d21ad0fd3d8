"""``tfserve doctor``: would this archive start and answer in a container without a network?

The archive is unpacked and its own ``code/`` runs in a process of its own that cannot open a
connection, called as the HuggingFace inference toolkit calls it. What that container would complain
about, or would not notice until an answer is wrong, is said here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tfserve import artifact, engines
from tfserve.archive import unpack
from tfserve.artifact import TOLERANCE, Artifact
from tfserve.errors import ModelError, TfserveError, last_line
from tfserve.vendoring import CONTAINERS_OWN, VENDORED

PROBE = Path(__file__).with_name("probe.py")
SECONDS = 600
"""A container that takes longer to start is given up by SageMaker."""

ARITY = {"model_fn": (1, 2), "input_fn": (2, 3), "predict_fn": (2, 3), "output_fn": (2, 3)}
"""Parameters that the toolkit allows, defaults included: its own, and ``context``."""

OK, NOTE, WRONG = "ok", "note", "wrong"


@dataclass(frozen=True)
class Finding:
    """``level`` is ``ok``, ``note`` (works, but know it) or ``wrong``."""

    level: str
    topic: str
    message: str


def examine(archive: Path | str) -> list[Finding]:
    """All findings about an archive, or about a model directory."""
    path = Path(archive)
    if path.is_dir():
        return list(_findings(path))
    if not path.is_file():
        raise ModelError("archive.not_found", f"found no file {path}; expected a model.tar.gz")
    with tempfile.TemporaryDirectory(prefix="tfserve-doctor-") as folder:
        try:
            unpack(path, Path(folder))
        except ModelError as error:
            return [Finding(WRONG, "archive", error.message)]
        return [
            Finding(OK, "archive", f"{path.stat().st_size / 1e6:,.1f} MB"),
            *_findings(Path(folder)),
        ]


def render(findings: list[Finding]) -> str:
    """A line per finding."""
    return "\n".join(f"{f.level:<6}{f.topic:<13}{f.message}" for f in findings)


def as_json(findings: list[Finding]) -> str:
    """The findings as a JSON list."""
    return json.dumps([asdict(finding) for finding in findings], ensure_ascii=False, indent=2)


def _findings(folder: Path) -> Iterator[Finding]:
    nested = [path.parent.name for path in folder.glob(f"*/{artifact.MANIFEST}")]
    if nested and not (folder / artifact.MANIFEST).is_file():
        yield Finding(
            WRONG,
            "layout",
            f"the files lie in {nested[0]}/; expected them at the archive's root: "
            "`tfserve package` writes it so",
        )
        return
    try:
        found = artifact.load(folder)
    except TfserveError as error:
        yield Finding(WRONG, "model", error.message.replace(f"{folder}{os.sep}", ""))
        return
    yield Finding(OK, "model", f"{found.manifest.task}, version {found.version}, all digests match")
    yield from _code(folder / "code")
    yield from _versions(found)
    yield from _engine(found)
    if (folder / "code" / "inference.py").is_file():
        yield from _probed(found)


def _code(code: Path) -> Iterator[Finding]:
    if not (code / "inference.py").is_file():
        message = "found no code/inference.py; the container would use its own default handler"
        yield Finding(WRONG, "code", f"{message}: train again, or copy code/ from training")
        return
    for name in ("tfserve", *chain.from_iterable(VENDORED.values())):
        if not (code / name).is_dir():
            message = f"found no code/{name}, which the HuggingFace containers do not have"
            yield Finding(WRONG, "code", f"{message}: train again, or copy code/ from training")
    for name in CONTAINERS_OWN:
        if (code / name).exists():
            yield Finding(WRONG, "code", f"code/{name} would replace the container's own {name}")
    requirements = code / "requirements.txt"
    if requirements.is_file():
        wanted = re.findall(r"^\s*([\w.-]+)", requirements.read_text("utf-8"), re.MULTILINE)
        for name in sorted({name.lower() for name in wanted} & set(CONTAINERS_OWN)):
            message = f"requirements.txt would replace the container's own {name}: remove it"
            yield Finding(WRONG, "code", message)
        message = "requirements.txt is installed at start: an endpoint without a network fails"
        yield Finding(NOTE, "code", message)


def _engine(found: Artifact) -> Iterator[Finding]:
    """Whether a HuggingFace container could run it."""
    if found.weights:
        return
    packages = sorted(engines.FASTER.get(name, name) for name in found.graphs)
    requirements = found.path / "code" / "requirements.txt"
    listed = requirements.read_text("utf-8").lower() if requirements.is_file() else ""
    if not any(name in listed for name in packages):
        message = (
            f"exported without weights, it needs {' or '.join(packages)}, which the HuggingFace "
            "containers do not have: serve it with docker/Dockerfile.light, or package the "
            "directory that training wrote"
        )
        yield Finding(WRONG, "engine", message)


def _versions(found: Artifact) -> Iterator[Finding]:
    trained = found.manifest.versions
    line = ", ".join(f"{name} {trained[name]}" for name in sorted(trained))
    yield Finding(OK, "versions", f"trained with {line or 'unknown versions'}")


def _probed(found: Artifact) -> Iterator[Finding]:
    """What the archive's own code does when it is called as the toolkit does."""
    asked = found.manifest.golden_request()
    settings = {"HF_HUB_OFFLINE": "1"}
    if found.weights:  # what a HuggingFace container computes with
        settings |= {"TFSERVE_ENGINE": "torch", "TFSERVE_PRECISION": "fp32"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TFSERVE_")} | settings
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-B", str(PROBE), str(found.path)],  # and compile nothing there
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        yield Finding(WRONG, "start", f"gave no answer within {SECONDS} seconds")
        return
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        reason = last_line(done.stderr, f"exit status {done.returncode}")
        yield Finding(WRONG, "start", f"code/inference.py ends its process: {reason}")
        return
    said = json.loads(lines[-1])
    if said["parameters"]:  # it could be imported
        yield from _signatures(said["parameters"])
    if "failed" in said:
        yield Finding(WRONG, "start", f"code/inference.py fails: {said['failed']}")
        return
    if "seconds" not in said:  # a handler is missing
        return
    message = f"tfserve {said['tfserve']} from code/, without a network, in {said['seconds']:.1f} s"
    yield Finding(OK, "start", message)
    if not found.manifest.golden:
        yield Finding(NOTE, "answers", "the manifest holds no golden records to ask")
        return
    yield _golden(found, said["predictions"], TOLERANCE[said.get("precision", "fp32")])


def _signatures(parameters: dict[str, int]) -> Iterator[Finding]:
    for name, allowed in ARITY.items():
        count = parameters.get(name)
        if count is None:
            message = f"inference.py has no {name}; the toolkit would use its default one"
            yield Finding(WRONG, "handlers", message)
        elif count not in allowed:
            expected = " or ".join(map(str, allowed))
            message = f"{name} takes {count} parameters; the toolkit wants {expected}"
            yield Finding(WRONG, "handlers", message)
    if "transform_fn" in parameters:
        message = "transform_fn cannot stand beside input_fn, predict_fn and output_fn: remove it"
        yield Finding(WRONG, "handlers", message)


def _golden(found: Artifact, predictions: list[dict[str, Any]], tolerance: float) -> Finding:
    """Whether the answers are those of training."""
    count = len(found.manifest.golden)
    if count != len(predictions):
        return Finding(WRONG, "answers", f"{len(predictions)} answers to {count} records")
    if (off := found.manifest.golden_difference(predictions)) > tolerance:
        message = f"{count} golden records are answered differently than in training, by "
        return Finding(WRONG, "answers", f"{message}{off:.3g}; compare the versions")
    return Finding(OK, "answers", f"{count} golden records, off by {off:.1e} at most")
