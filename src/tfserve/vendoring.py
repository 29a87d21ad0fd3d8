"""What a HuggingFace container or a training job is sent along: tfserve, and what they lack."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path

VENDORED = {"jsonlines": ("jsonlines",), "attrs": ("attr", "attrs")}
"""What serving needs beside numpy and tokenizers, which every HuggingFace container has: the
packages, and the modules that they are imported as."""

CONTAINERS_OWN = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
"""What a container brings: nothing that we carry or install may replace it."""

INFERENCE = '''"""What the HuggingFace inference containers call: tfserve's handlers."""

from tfserve.handlers import input_fn, model_fn, output_fn, predict_fn

__all__ = ["input_fn", "model_fn", "output_fn", "predict_fn"]
'''


def vendor(folder: Path) -> None:
    """Copy tfserve and what a HuggingFace container lacks into ``folder``.

    What a model or a job never needs stays behind: the server, and the stack of ``tfserve deploy``.
    """
    # From where they are imported: in a training job they are such copies themselves.
    modules = ("tfserve", *(name for names in VENDORED.values() for name in names))
    for name in modules:
        source = Path(str(import_module(name).__file__)).parent
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "*.pyi", "server", "stack")
        shutil.copytree(source, folder / name, ignore=ignored)


def write_code(folder: Path) -> None:
    """``inference.py`` and what it needs."""
    folder.mkdir()
    (folder / "inference.py").write_text(INFERENCE, "utf-8")
    vendor(folder)
