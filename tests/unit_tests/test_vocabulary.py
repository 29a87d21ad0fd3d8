"""Only the embeddings of tokens that occur are trained, and nothing else changes by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from conftest import PretrainedFolder
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import tfserve
from tfserve.training import loop
from tfserve.training.vocabulary import Occurring, Vocabulary


def embeddings(folder: Path) -> np.ndarray[Any, Any]:
    """The word embeddings in a folder's weights."""
    found = load_file(folder / "model.safetensors")
    (name,) = (n for n in found if n.endswith(("word_embeddings.weight", "tok_embeddings.weight")))
    return found[name]


def test_it_embeds_what_occurs_as_the_whole_does() -> None:
    full = torch.nn.Embedding(50, 4, padding_idx=1)
    some = Occurring(full, np.array([1, 7, 30, 49]))
    ids = torch.tensor([[7, 49, 1], [30, 30, 1]])
    assert torch.equal(some(ids), full(ids))
    assert some.weight.shape == (4, 4)
    some(ids).sum().backward()
    assert some.weight.grad is not None
    assert not some.weight.grad[0].any()  # padding, as in the whole
    with pytest.raises(IndexError):
        some(torch.tensor([[8]]))


class Whole(Vocabulary):
    """Leaves the embedding as it is."""

    def __init__(self, *_: Any) -> None: ...

    def restore(self, model: Any) -> None: ...


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_training_gives_the_weights_that_training_the_whole_table_gives(
    family: str, pretrained: PretrainedFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxed = family in tiny.BOXED
    data = tiny.data(tmp_path / "data", "classif", boxed)
    hp = tiny.hparams("classif", pretrained(family), weight_decay=0.0, use_bbox=boxed)
    tfserve.train(hp, train_dir=data, model_dir=tmp_path / "narrowed")
    monkeypatch.setattr(loop, "Vocabulary", Whole)
    tfserve.train(hp, train_dir=data, model_dir=tmp_path / "whole")

    one, other = (
        load_file(tmp_path / kind / "model.safetensors") for kind in ("narrowed", "whole")
    )
    assert {n: a.shape for n, a in one.items()} == {n: a.shape for n, a in other.items()}
    for name, value in one.items():
        # Softmax does not see the biases of keys: their gradient is rounding.
        if not name.endswith(("key.bias", "k_lin.bias", "key_global.bias")):
            assert value == pytest.approx(other[name], abs=2e-6), name


def test_rows_of_tokens_that_do_not_occur_stay_as_they_were(
    pretrained: PretrainedFolder, tmp_path: Path
) -> None:
    data = tiny.data(tmp_path / "data", "classif")
    hp = tiny.hparams("classif", pretrained("bert"), weight_decay=0.1)
    tfserve.train(hp, train_dir=data, model_dir=tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    texts = [
        line.split("\t")[0]
        for split in ("train", "dev")
        for line in (data / f"{split}.csv").read_text("utf-8").splitlines()[1:]
    ]
    seen = {token for text in texts for token in tokenizer.encode(text).ids} | {0}
    before, after = embeddings(pretrained("bert")), embeddings(tmp_path / "model")
    unseen = sorted(set(range(len(before))) - seen)
    assert len(unseen) > 20
    assert np.array_equal(before[unseen], after[unseen])
    trained = sorted(seen - {0})
    assert (before[trained] != after[trained]).any(axis=1).all()
