"""Requests per second of servers with the same fine-tuned MiniLM, one text a request.

tfserve with the engine that it chooses, with torch, and exported with products in int8; the
HuggingFace inference toolkit on MMS with a worker per core; infinity with torch and with ONNX;
LitServe with batches of 32; a plain FastAPI around a pipeline. Each on short texts and on a mix
with long documents:

- a closed loop: so many clients that ask again as soon as they are answered;
- an open one: requests that come by chance (Poisson), at the highest rate, found by bisection, at
  which all are answered and 99% within 250 ms.

All servers take turns, several rounds; medians and ratios count. The clients run on the same cores.
Writes the results as JSON; `report.py` makes tables and plots of them.

    python benchmarks/serving/run.py OUT.json [--rounds 3] [--seconds 6] [--model DIR]

Needs Java and root for the toolkit. The packages of toolkit, infinity and LitServe are installed
once, each into an environment of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import uvloop
from load import closed, open_loop, request

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "tests" / "docker_test")]

from common import DATA, classifier, machine, parser  # noqa: E402
from environments import environment, variables  # noqa: E402
from prediction import load_texts  # noqa: E402
from servers import free_port, own_server, running, toolkit  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from tfserve import quantization  # noqa: E402
from tfserve.export import export  # noqa: E402

SETS = ("banking77", "mix")
CLIENTS = (1, 8, 32, 64)
WARM_UP = 2
"""Seconds before each measurement."""

LONGEST = 500
"""Tokens of a text; MiniLM takes 512 with its own two."""

LIMIT_MS, LOWEST, STEPS, TRIES = 250, 2.0, 6, 2
"""Of the open loop's latencies, 99% of them; its lowest rate; steps of the bisection; tries of a
rate, because a moment of somebody else's on a shared machine is enough to miss it."""

Server = contextlib.AbstractContextManager[str]


@dataclass(frozen=True)
class Peer:
    """A server to measure.

    Attributes
    ----------
    start : given a new folder
    path : where it is asked
    body : of a request for a text
    """

    start: Callable[[Path], Server]
    path: str = "/invocations"
    body: Callable[[str], dict[str, Any]] = lambda text: {"inputs": text}


def ours(model: Path, engine: str) -> Peer:
    """``tfserve serve``, in its own precision."""
    return Peer(lambda folder: own_server(model, folder / "ml", "auto", engine), "/predict")


def huggingface(model: Path) -> Peer:
    """The toolkit's own pipeline."""
    cores = os.cpu_count() or 1
    return Peer(lambda folder: toolkit("4", model, folder / "ml", workers=cores))


def process(command: Callable[[str], list[str]], given: dict[str, str], **asked: Any) -> Peer:
    """Any other server; ``command`` is given its port."""

    def ready(url: str) -> bool:
        body = json.dumps(peer.body("where is my card?")).encode()
        asking = Request(url + peer.path, body, {"Content-Type": "application/json"})
        try:
            with urlopen(asking, timeout=60):
                return True
        except OSError:
            return False

    @contextlib.contextmanager
    def start(folder: Path) -> Iterator[str]:
        port = str(free_port())
        url = f"http://127.0.0.1:{port}"
        with running(command(port), given, folder / "log", url, ready) as found:
            yield found

    peer = Peer(start, **asked)
    return peer


def infinity(model: Path, engine: str) -> Peer:
    """infinity, without its own warming up: that sends more tokens than most models take."""
    folder = environment("infinity", HERE / "peers")
    start = [str(folder / "infinity_emb"), "v2", "--model-id", str(model), "--device", "cpu"]
    start.append("--no-model-warmup")
    return process(
        lambda port: [*start, "--engine", engine, "--served-model-name", "m", "--port", port],
        {**variables(folder), "OMP_NUM_THREADS": str(os.cpu_count()), "DO_NOT_TRACK": "1"},
        path="/classify",
        body=lambda text: {"model": "m", "input": [text]},
    )


def onnx_of(model: Path, folder: Path) -> Path:
    """A copy with a graph of torch's older exporter: infinity breaks those of the newer."""
    import torch
    from transformers import AutoModelForSequenceClassification

    shutil.copytree(model, folder)
    (folder / "onnx").mkdir()
    loaded = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager")
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {name: {0: "rows", 1: "length"} for name in names}
    example = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in names)
    torch.onnx.export(
        loaded.eval(), example, str(folder / "onnx" / "model.onnx"), input_names=names,
        output_names=["logits"], dynamic_axes=axes, dynamo=False,
    )  # fmt: skip
    return folder


def fitting(model: Path, texts: Sequence[str]) -> list[str]:
    """Texts cut to what the model takes: the toolkit refuses longer ones, infinity hangs."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    ends = [one.offsets[:LONGEST][-1][1] for one in encoded]
    return [text[:end] for text, end in zip(texts, ends, strict=True)]


def peers(model: Path, scratch: Path) -> dict[str, Peer]:
    """All servers. The model directory lies bare for those that would run its own code."""
    bare = Path(shutil.copytree(model, scratch / "bare", ignore=shutil.ignore_patterns("code")))
    quantization.MOST_LOST = 1.0  # what it loses is told in another table
    small, _ = export(model, "openvino", output=scratch / "int8", dev=DATA / "banking77/dev.csv")
    plain, lit = str(HERE / "peers" / "plain.py"), str(HERE / "peers" / "lit.py")
    folder = environment("litserve", HERE / "peers")
    threads = {"OMP_NUM_THREADS": str(os.cpu_count())}
    return {
        "tfserve": ours(model, "auto"),
        "tfserve, torch": ours(model, "torch"),
        "tfserve, int8": ours(small.path, "auto"),
        "HuggingFace toolkit": huggingface(bare),
        "infinity, ONNX": infinity(onnx_of(bare, scratch / "onnx"), "optimum"),
        "infinity, torch": infinity(bare, "torch"),
        "LitServe": process(
            lambda port: [str(folder / "python"), lit, str(bare), port],
            {**variables(folder), **threads},
            path="/predict",
        ),
        "FastAPI and pipeline": process(
            lambda port: [sys.executable, plain, str(bare), port], {**os.environ}
        ),
    }


def in_time(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> bool:
    """Whether all are answered, and 99% of them soon."""
    result = uvloop.run(open_loop(port, requests, rate, seconds))
    return set(result.statuses) <= {200} and result.quantile(0.99) <= LIMIT_MS


def highest(port: int, requests: Sequence[bytes], most: float, seconds: float) -> float:
    """The highest rate that is answered in time; 0 where not even the lowest is."""
    low, high = LOWEST, max(2 * LOWEST, 1.2 * most)
    found = 0.0
    for _ in range(STEPS):
        rate = (low * high) ** 0.5
        if any(in_time(port, requests, rate, seconds) for _ in range(TRIES)):
            low = found = rate
        else:
            high = rate
    return found


def measure(port: int, requests: Sequence[bytes], seconds: float) -> dict[str, float]:
    """Rates and latencies (milliseconds) of one server and set of texts."""
    found: dict[str, float] = {}
    for clients in CLIENTS:
        uvloop.run(closed(port, requests, clients, WARM_UP))
        result = uvloop.run(closed(port, requests, clients, seconds))
        found[f"rate {clients}"] = result.rate
        found[f"p50 {clients}"], found[f"p99 {clients}"] = map(result.quantile, (0.5, 0.99))
        found[f"refused {clients}"] = sum(result.statuses.values()) - len(result.latencies)
    most = max(found[f"rate {clients}"] for clients in CLIENTS)
    found["open"] = highest(port, requests, most, seconds)
    return found


def main() -> None:
    """Measure in turn and write."""
    known = parser(__doc__)
    known.add_argument("out", type=Path)
    known.add_argument("--seconds", type=float, default=6)
    known.add_argument("--only", nargs="+", help="some of the servers")
    options = known.parse_args()
    scratch = Path(tempfile.mkdtemp())
    model = classifier(options.model, num_train_epochs=2)
    servers, asked_for = peers(model, scratch), {n: fitting(model, load_texts(n)) for n in SETS}
    found: list[dict[str, Any]] = []
    for number in range(options.rounds):
        for name in options.only or servers:
            folder = scratch / f"{number}-{name.replace(' ', '-')}"
            folder.mkdir()
            with servers[name].start(folder) as url:
                port = int(url.rpartition(":")[2])
                for texts in SETS:
                    asked = [json.dumps(servers[name].body(text)) for text in asked_for[texts]]
                    requests = [request(servers[name].path, body.encode()) for body in asked]
                    values = measure(port, requests, options.seconds)
                    found.append({"server": name, "texts": texts, "round": number, **values})
                    print({k: round(v, 1) if isinstance(v, float) else v
                           for k, v in found[-1].items()}, flush=True)  # fmt: skip
            told = {"machine": machine(), "seconds": options.seconds, "results": found}
            options.out.write_text(json.dumps(told, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
