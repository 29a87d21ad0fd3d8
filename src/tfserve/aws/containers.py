"""Which HuggingFace container to take: the newest that the installed SDK and tfserve both know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfserve.errors import HParamsError

OLDEST, BEYOND = (4, 48), (6,)
"""Versions of transformers that tfserve runs on: at least the first, less than the second."""


@dataclass(frozen=True)
class Container:
    """Versions as both SDKs' ``image_uris`` name them: ``4.56.2``, ``2.8.0``, ``py312``."""

    transformers: str
    pytorch: str
    python: str

    def __str__(self) -> str:
        return f"transformers {self.transformers}, pytorch {self.pytorch}, {self.python}"


def uri(
    image_uris: Any,
    scope: str,
    region: str | None,
    instance_type: str,
    transformers_version: str | None = None,
) -> str:
    """The address of the image of the container that ``choose`` chooses."""
    container = choose(image_uris, scope, transformers_version)
    return str(
        image_uris.retrieve(
            "huggingface",
            region,
            version=container.transformers,
            base_framework_version=f"pytorch{container.pytorch}",
            py_version=container.python,
            instance_type=instance_type,
            image_scope=scope,
        )
    )


def choose(image_uris: Any, scope: str, transformers_version: str | None = None) -> Container:
    """The newest container for ``training`` or ``inference``, or the one asked for; prints which.

    Parameters
    ----------
    image_uris : the module of that name of the SDK in use
    transformers_version : such as ``4.56`` or ``4.56.2``

    Raises
    ------
    HParamsError
        The SDK knows no such container, or tfserve does not run on it.
    """
    versions = image_uris.config_for_framework("huggingface")[scope]["versions"]
    known = {
        tuple(map(int, version.split("."))): Container(
            version, name.removeprefix("pytorch"), max(content["py_versions"])
        )
        for version, contents in versions.items()
        for name, content in contents.items()
        if name.startswith("pytorch")
    }
    fitting = {version: known[version] for version in known if OLDEST <= version < BEYOND}
    if transformers_version is not None:
        asked = tuple(map(int, transformers_version.split(".")))
        fitting = {v: c for v, c in fitting.items() if v[: len(asked)] == asked}
    if not fitting:
        names = ", ".join(".".join(map(str, v)) for v in sorted(known) if OLDEST <= v < BEYOND)
        raise HParamsError(
            "hparams.value",
            f"transformers_version: found {transformers_version!r}; the installed SageMaker SDK "
            f"has {scope} containers with {names or 'none that tfserve runs on: update it'}",
        )
    chosen = fitting[max(fitting)]
    print(f"{scope} container: {chosen}")
    return chosen
