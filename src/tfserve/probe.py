"""Run as a script by ``tfserve doctor``: calls an unpacked archive's own handlers, offline.

    python -I probe.py FOLDER < request.json

``FOLDER/code`` comes first on the path, as in the container. Prints one JSON object.
"""

from __future__ import annotations

import importlib
import inspect
import json
import socket
import sys
import time
from typing import Any

HANDLERS = ("model_fn", "input_fn", "predict_fn", "output_fn")


class OfflineError(OSError):
    """What a process without a network meets."""


def refuse(*_: Any, **__: Any) -> Any:
    """Stands where a connection would be opened."""
    raise OfflineError("no network here")


def probe(folder: str, body: str, result: dict[str, Any]) -> None:
    """Put into ``result`` what the handlers are and answer, as far as they come."""
    socket.socket.connect = refuse  # type: ignore[method-assign]
    socket.getaddrinfo = refuse
    sys.path.insert(0, f"{folder}/code")
    started = time.perf_counter()
    module = importlib.import_module("inference")
    result["parameters"] = {
        name: len(inspect.signature(getattr(module, name)).parameters)
        for name in (*HANDLERS, "transform_fn")
        if hasattr(module, name)
    }
    if not result["parameters"].keys() >= set(HANDLERS):
        return
    model = module.model_fn(folder)
    result["precision"] = getattr(getattr(model, "engine", None), "precision", "fp32")
    result["seconds"] = time.perf_counter() - started
    if json.loads(body)["data"]:
        request = module.input_fn(body, "application/json")
        answer = module.output_fn(module.predict_fn(request, model), "application/json")
        result["predictions"] = json.loads(answer)["predictions"]
    result["tfserve"] = getattr(sys.modules.get("tfserve"), "__version__", "(none)")


def main() -> None:
    """Print the result, or what failed."""
    result: dict[str, Any] = {"parameters": {}, "predictions": []}
    try:
        probe(sys.argv[1], sys.stdin.read(), result)
    except Exception as error:
        result["failed"] = f"{type(error).__name__}: {error}"[:1000]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
