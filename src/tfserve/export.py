"""``export``: a model directory that another engine runs, with its weights or in their place.

The graph lies in a folder named after its engine. Beside the weights it is what surfaces prefer on
a CPU; a directory without them is smaller and is served where torch and transformers are not
installed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from tfserve import artifact, engines, tables
from tfserve.artifact import WEIGHTS, Artifact
from tfserve.conversion import convert
from tfserve.errors import ModelError
from tfserve.files import check_absent, new_folder, sha256, storing
from tfserve.quantization import Quantized, quantize


def export(
    model_dir: Path | str,
    engine: str,
    *,
    output: Path | str | None = None,
    dev: Path | str | None = None,
) -> tuple[Artifact, Quantized | None]:
    """Add the graph for ``engine`` to a model directory, or write a directory with it alone.

    Parameters
    ----------
    output : a new directory that holds no weights; by default the graph is added to ``model_dir``
    dev : a labelled table, where products shall be in int8: what they cost is measured on it

    Raises
    ------
    ModelError
        ``model.convert``: the engine cannot run the model. ``model.int8``: it would lose too much,
        or gain nothing. Nothing is written then.
    InstallError
        The engine is not installed.
    DataError
        For the table.
    StorageError
        For ``output``.
    """
    found = artifact.load(model_dir)
    module = engines.find(engine)
    if not engines.runs_graphs(engine):
        raise ModelError("model.engine", f"{engine} runs the weights as they are: nothing to do")
    if not found.weights:
        raise ModelError(
            "model.engine", f"{model_dir} holds no weights: export the one that training wrote"
        )
    if dev is not None and not hasattr(module, "quantize"):
        raise ModelError("model.int8", f"found engine {engine}; expected openvino for int8")
    if output is not None:
        check_absent(Path(output))
    with tempfile.TemporaryDirectory() as scratch:
        graph, small = Path(scratch, "graph"), Path(scratch, "int8")
        for folder in (graph, small):
            folder.mkdir()
        table = None
        if dev is not None:  # before the model is converted: its problems are told at once
            table = tables.read_table(dev, type(found.task()), use_bbox=found.manifest.use_bbox)
        convert(engine, found.path, graph)
        quantized = None
        if table is not None:
            quantized = quantize(found, module, table, graph, small)
            graph = small
        versions = artifact.installed_versions([engines.FASTER.get(engine, engine)])
        found = replace(
            found, manifest=replace(found.manifest, versions=found.manifest.versions | versions)
        )
        if output is None:
            _add(found, engine, graph)
        else:
            _write(found, engine, graph, Path(output))
    return artifact.load(output or model_dir), quantized


def _add(found: Artifact, engine: str, graph: Path) -> None:
    """Put the graph into the model directory, which is whole at every moment."""
    path, files = found.path, found.manifest.files
    others = {name: files[name] for name in files if not name.startswith(f"{engine}/")}
    with storing(path):
        staging = Path(tempfile.mkdtemp(prefix=".tfserve-", dir=path))
        try:
            moved = _copied(graph, staging / engine)
            _list(found, path, others)  # a graph that was there before is no part of it any more
            shutil.rmtree(path / engine, ignore_errors=True)
            os.replace(moved, path / engine)
            _list(found, path, others | _hashes(path / engine, engine))
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _write(found: Artifact, engine: str, graph: Path, output: Path) -> None:
    """A new directory with the graph, and without weights and other graphs."""
    kept = {
        name: digest
        for name, digest in found.manifest.files.items()
        if "/" not in name and not name.endswith(WEIGHTS)
    }
    with new_folder(output) as staging:
        artifact.copy(found, kept, staging)
        _list(found, staging, kept | _hashes(_copied(graph, staging / engine), engine))


def _copied(graph: Path, target: Path) -> Path:
    """One by one: ``copytree`` hides of what kind an error was."""
    target.mkdir()
    for file in graph.iterdir():
        shutil.copyfile(file, target / file.name)
    return target


def _list(found: Artifact, path: Path, files: dict[str, str]) -> None:
    """Write the manifest of these files."""
    replace(found.manifest, files=files).write(path)


def _hashes(folder: Path, name: str) -> dict[str, str]:
    return {f"{name}/{file.name}": sha256(file) for file in sorted(folder.iterdir())}
