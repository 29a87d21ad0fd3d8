"""How fast each part of a model learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file

import tfserve
from tfserve import tasks
from tfserve.training.optimization import parameter_groups, schedule, usual_rate
from tfserve.training.plan import usual_batch
from tfserve.training.pretrained import Pretrained


@pytest.mark.parametrize(
    ("width", "rate"), [(128, 5e-4), (384, 2e-4), (768, 5e-5), (1024, 2.8125e-5), (4096, 1e-5)]
)
def test_narrow_encoders_learn_at_a_higher_rate(width: int, rate: float) -> None:
    assert usual_rate(width) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [([10, 30, 20], 16), ([128], 16), ([100, 300], 10), ([512] * 9, 4), ([8192], 4)],
)
def test_a_step_has_fewer_rows_where_they_are_long(lengths: list[int], rows: int) -> None:
    assert usual_batch(lengths) == rows


@pytest.mark.parametrize("warmup_ratio", [0.0, 0.2, 0.5, 1.0])
def test_the_rate_rises_and_falls_as_that_of_transformers(warmup_ratio: float) -> None:
    share = schedule(warmup_ratio, total=10)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1)
    known = transformers.get_linear_schedule_with_warmup(optimizer, round(warmup_ratio * 10), 10)
    found = [share(step) for step in range(10)]
    assert found == [known.lr_lambdas[0](step) for step in range(10)]
    if warmup_ratio == 0.2:
        assert found == [0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]


@pytest.mark.parametrize("task_name", ["classif", "ner"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_layer_learns_slower_than_the_one_above(
    family: str, task_name: str, tmp_path: Path
) -> None:
    labels = ["a", "b"] if task_name == "classif" else [("O", "B-a"), ("B-b", "O")]
    task = tasks.get(task_name).fit(labels)
    model = Pretrained.find(str(tiny.model(tmp_path / family, family))).model(task, use_bbox=False)
    groups = parameter_groups(model, fresh=model.fresh, weight_decay=0.3, layer_decay=0.5)
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


def head(model: Any) -> set[str]:
    """Names of the parameters beside the encoder."""
    encoder = {id(parameter) for parameter in model.base_model.parameters()}
    return {name for name, p in model.named_parameters() if id(p) not in encoder}


def test_what_was_pretrained_is_no_head_and_what_was_not_learns_as_fast_as_one(
    tmp_path: Path,
) -> None:
    task = tasks.get("classif").fit(["a", "b"])
    config = transformers.AutoConfig.from_pretrained(
        tiny.model(tmp_path / "modernbert", "modernbert")
    )
    whole = transformers.ModernBertForMaskedLM(config)
    whole.save_pretrained(tmp_path / "modernbert")  # with the dense layer and norm of its head
    model = Pretrained.find(str(tmp_path / "modernbert")).model(task, use_bbox=False)
    assert model.fresh == {"classifier.weight", "classifier.bias"}
    groups = parameter_groups(model, fresh=model.fresh, weight_decay=0.0, layer_decay=0.5)
    scales = {id(p): group["scale"] for group in groups for p in group["params"]}
    assert scales[id(model.head.dense.weight)] == scales[id(model.head.norm.weight)] == 1.0

    folder = tiny.model(tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    model = Pretrained.find(str(folder)).model(task, use_bbox=False)
    groups = parameter_groups(model, fresh=model.fresh, weight_decay=0.0, layer_decay=0.5)
    scales = {id(p): group["scale"] for group in groups for p in group["params"]}
    assert scales[id(model.bert.pooler.dense.weight)] == 5.0


SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
         "intermediate_size": 64, "vocab_size": 99, "pad_token_id": 0}  # fmt: skip
OTHERS = {
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p"], "position_buckets": 8},
    "electra": {"embedding_size": 16},
    "layoutlmv3": {},
    "mpnet": {},
}


@pytest.mark.parametrize("family", OTHERS)
def test_what_stands_beside_the_layers_learns_as_what_it_is(family: str) -> None:
    config = transformers.AutoConfig.for_model(family, **{**SMALL, **OTHERS[family]})
    model = transformers.AutoModelForTokenClassification.from_config(config)
    groups = parameter_groups(model, fresh=head(model), weight_decay=0.0, layer_decay=0.5)
    scales = {id(p): group["scale"] for group in groups for p in group["params"]}
    assert {0.0625, 0.125, 0.25, 0.5, 5.0} <= set(scales.values())
    for name, parameter in model.base_model.named_parameters():
        if "embed" in name or "rel_pos" in name or "relative" in name:
            assert scales[id(parameter)] == 0.0625, name


@pytest.mark.parametrize(
    ("family", "config"),
    [("albert", {**SMALL, "embedding_size": 16}),
     ("funnel", {"vocab_size": 99, "block_sizes": [2, 2], "d_model": 32, "n_head": 2, "d_head": 16,
                 "d_inner": 64})],
)  # fmt: skip
def test_layers_that_share_weights_learn_all_alike(family: str, config: dict[str, Any]) -> None:
    made = transformers.AutoConfig.for_model(family, **config)
    model = transformers.AutoModelForSequenceClassification.from_config(made)
    groups = parameter_groups(model, fresh=head(model), weight_decay=0.0, layer_decay=0.5)
    assert {group["scale"] for group in groups} == {1.0, 5.0}


def test_the_embeddings_learn_at_a_fifth_whatever_the_depth(tmp_path: Path) -> None:
    task = tasks.get("classif").fit(["a", "b"])
    for layers, share in ((1, 0.2**0.5), (6, 0.2 ** (1 / 7))):
        folder = tiny.model(tmp_path / str(layers), num_hidden_layers=layers)
        model = Pretrained.find(str(folder)).model(task, use_bbox=False)
        groups = parameter_groups(model, fresh=model.fresh, weight_decay=0.0, layer_decay=None)
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
    moved["head"] = after["classifier.bias"].abs().max().item()  # from zero
    scales = {
        "embeddings.position_embeddings.weight": 1e-3,
        "encoder.layer.0.output.dense.weight": 1e-2,
        "encoder.layer.1.output.dense.weight": 1e-1,
        "pooler.dense.weight": 1.0,
        "head": 5.0,
    }
    # A step of AdamW is about as long as the rate: four steps, at most at 1e-3.
    for name, scale in scales.items():
        assert scale * 5e-4 < moved[name] < scale * 4e-3, name
