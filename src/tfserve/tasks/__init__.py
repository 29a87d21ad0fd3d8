"""The tasks, by name. Adding a task is adding one file to this folder.

A file defines a subclass of ``Task`` and registers it under the name that users write:

    @register("classif")
    class Classif(Task): ...
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil

from tfserve.errors import HParamsError
from tfserve.tasks.base import Task, register, registry

__all__ = ["Task", "get", "names", "register"]


def names() -> list[str]:
    """The names of all tasks."""
    _load()
    return sorted(registry)


def get(name: str) -> type[Task]:
    """The task of that name. Raises HParamsError with the known names."""
    _load()
    if name not in registry:
        near = difflib.get_close_matches(name, registry, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise HParamsError(
            "hparams.value",
            f"task_name: found {name!r}; expected one of {', '.join(sorted(registry))}{hint}",
        )
    return registry[name]


def _load() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
