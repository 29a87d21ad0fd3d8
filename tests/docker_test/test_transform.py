"""Batch Transform over many lines: every line gets its line, and memory stays as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance import LINES
from conftest import hyperparameters, sources
from servers import own_server, post, resident, toolkit

import tfserve

COUNT, EACH = 100_000, 100
"""Lines, and of how many one is bad."""

PAYLOAD = 1_000_000
"""Bytes of a mini-batch: MultiRecord sends as many lines as fit."""

BAD = ('{"text": "cut off', '{"title": "no text"}', '{"text": ""}', "null", '{"text": 5}')
MORE = 40
"""Megabytes by which memory may grow between the second mini-batch and the last."""


def lines() -> Iterator[str]:
    """No two texts are the same, so that each is computed."""
    for number in range(COUNT):
        if number % EACH == 0:
            yield BAD[number // EACH % len(BAD)]
        else:
            yield json.dumps(
                {"text": f"the {number} parcel came {number % 7} days late", "id": number}
            )


def mini_batches() -> Iterator[list[str]]:
    batch, size = list[str](), 0
    for line in lines():
        if size + len(line) + 1 > PAYLOAD:
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line) + 1
    yield batch


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transform")
    pretrained, data = sources("classif", folder)
    hparams = hyperparameters("classif", pretrained)
    tfserve.train(hparams, train_dir=data, model_dir=folder / "model")
    return folder / "model"


SURFACES: dict[str, Any] = {
    "our own server": own_server,
    "the inference toolkit": lambda model, base: toolkit("4", model, base),
}


@pytest.mark.parametrize("surface", SURFACES)
def test_every_line_is_answered_in_its_place_in_flat_memory(
    surface: str, model: Path, tmp_path: Path
) -> None:
    base, number, megabytes = tmp_path / "ml", 0, list[int]()
    with SURFACES[surface](model, base) as url:
        for batch in mini_batches():
            reply = post(url, "".join(line + "\n" for line in batch), LINES, LINES)
            assert reply.status == 200, reply.text[:500]
            answers = [json.loads(line) for line in reply.text.splitlines()]
            assert len(answers) == len(batch)
            for place, answer in enumerate(answers, start=1):
                if number % EACH == 0:
                    assert answer["error"]["line"] == place
                else:
                    assert answer["id"] == number and "pred" in answer
                number += 1
            megabytes.append(resident(str(base)))
    print(f"{surface}: megabytes after each mini-batch {megabytes}")
    assert number == COUNT
    assert len(megabytes) > 5
    assert megabytes[-1] - megabytes[1] < MORE, megabytes
