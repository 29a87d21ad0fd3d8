"""How fast each part of a model learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from safetensors.torch import load_file

import tfserve
from tfserve import tasks
from tfserve.training.optimization import parameter_groups, usual_rate
from tfserve.training.pretrained import Pretrained


@pytest.mark.parametrize(
    ("width", "rate"), [(128, 5e-4), (384, 2e-4), (768, 5e-5), (1024, 2.8125e-5)]
)
def test_narrow_encoders_learn_at_a_higher_rate(width: int, rate: float) -> None:
    assert usual_rate(width) == pytest.approx(rate)


@pytest.mark.parametrize("task_name", ["classif", "ner"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_layer_learns_slower_than_the_one_above(
    family: str, task_name: str, tmp_path: Path
) -> None:
    labels = ["a", "b"] if task_name == "classif" else [("O", "B-a"), ("B-b", "O")]
    task = tasks.get(task_name).fit(labels)
    model = Pretrained.find(str(tiny.model(tmp_path / family, family))).model(task, use_bbox=False)
    groups = parameter_groups(model, weight_decay=0.3, layer_decay=0.5)
    scales = {id(p): group["scale"] for group in groups for p in group["params"]}
    assert len(scales) == sum(len(group["params"]) for group in groups)
    assert scales.keys() == {id(p) for p in model.parameters()}
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.3}
    for name, parameter in model.base_model.named_parameters():
        place = 0.125 if "embeddings" in name else 1.0
        place = 0.25 if ".0." in name else 0.5 if ".1." in name else place
        assert scales.pop(id(parameter)) == place, name
    assert set(scales.values()) == {5.0}


def test_the_embeddings_learn_at_a_fifth_whatever_the_depth(tmp_path: Path) -> None:
    task = tasks.get("classif").fit(["a", "b"])
    for layers, share in ((1, 0.2**0.5), (6, 0.2 ** (1 / 7))):
        folder = tiny.model(tmp_path / str(layers), num_hidden_layers=layers)
        model = Pretrained.find(str(folder)).model(task, use_bbox=False)
        groups = parameter_groups(model, weight_decay=0.0, layer_decay=None)
        found = [group["scale"] for group in groups]
        assert found == pytest.approx([*(share**i for i in range(layers + 1, -1, -1)), 5.0])


def test_a_run_learns_at_those_rates(tmp_path: Path) -> None:
    encoder = tiny.model(tmp_path / "encoder")
    hparams = {**tiny.hparams("classif", encoder), "layer_decay": 0.1, "weight_decay": 0}
    tfserve.train(
        hparams, train_dir=tiny.data(tmp_path / "data", "classif"), model_dir=tmp_path / "model"
    )
    before = load_file(encoder / "model.safetensors")
    after = load_file(tmp_path / "model" / "model.safetensors")
    moved = {n: (after[f"bert.{n}"] - given).abs().max().item() for n, given in before.items()}
    scales = {
        "embeddings.position_embeddings.weight": 1e-3,
        "encoder.layer.0.output.dense.weight": 1e-2,
        "encoder.layer.1.output.dense.weight": 1e-1,
        "pooler.dense.weight": 1.0,
    }
    # A step of AdamW is about as long as the rate: four steps, at most at 1e-3.
    for name, scale in scales.items():
        assert scale * 1e-4 < moved[name] < scale * 4e-3, name
