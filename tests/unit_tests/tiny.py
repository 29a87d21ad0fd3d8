"""Models small enough for a test: every family's real architecture and tokenizer, a few weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SENTENCES = [
    "the parcel never arrived and nobody answers my mails",
    "where is my parcel it was due on monday",
    "please refund the invoice you charged me twice",
    "the invoice shows a wrong amount refund the difference",
    "send 12 crates of lemons to the harbour kitchen by friday",
    "total 31.00 date 09/01/2019 cash change thank you",
    "great coffee friendly staff lovely terrace",
    "cold food rude staff never again",
    "naïve café déjà vu straße 東京 привет",
]
BASE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
POSITIONS = 64

CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**BASE, "max_position_embeddings": POSITIONS},
    "distilbert": {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 64,
        "max_position_embeddings": POSITIONS,
    },
    "roberta": {**BASE, "max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1},
    "xlm-roberta": {**BASE, "max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1},
    "longformer": {
        **BASE,
        "max_position_embeddings": 4 * POSITIONS + 2,
        "attention_window": [8, 8],
        "type_vocab_size": 1,
    },
    "modernbert": {
        **BASE,
        "max_position_embeddings": POSITIONS,
        "local_attention": 16,
        "global_attn_every_n_layers": 2,
    },
    "layoutlm": {**BASE, "max_position_embeddings": POSITIONS, "max_2d_position_embeddings": 1024},
    # LiLT splits hidden_size into six coordinates.
    "lilt": {
        **BASE, "hidden_size": 48, "max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1
    },
}  # fmt: skip
TOKENIZERS = {
    "bert": "wordpiece",
    "distilbert": "wordpiece",
    "roberta": "bytes",
    "xlm-roberta": "unigram",
    "longformer": "bytes",
    "modernbert": "bytes",
    "layoutlm": "wordpiece",
    "lilt": "bytes",
}
FAMILIES = tuple(CONFIGS)
BOXED = ("layoutlm", "lilt")


def tokenizer(kind: str) -> Tokenizer:
    """A real tokenizer of ``SENTENCES``: ``wordpiece``, ``bytes`` or ``unigram``.

    The trainers of the first and the last kind are not deterministic, so their pieces are given:
    short words whole, long ones to be spelt.
    """
    words = sorted({word for sentence in SENTENCES for word in sentence.lower().split()})
    letters = sorted({letter for word in words for letter in word})
    whole = [word for word in words if len(word) < 7]
    if kind == "wordpiece":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        tails = [f"##{word[-3:]}" for word in words]
        pieces = [*special, *letters, *(f"##{letter}" for letter in letters), *tails, *whole]
        vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
        tok = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
        tok.normalizer = normalizers.BertNormalizer()
        tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tok.decoder = decoders.WordPiece()
        first, last = "[CLS]", "[SEP]"
    elif kind == "bytes":
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        tok = Tokenizer(models.BPE(unk_token="<unk>"))
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tok.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        tok.train_from_iterator(SENTENCES, trainer)
        first, last = "<s>", "</s>"
    else:
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        pieces = [*special, "▁", *letters, *(f"▁{word}" for word in whole)]
        scores = [(piece, -1.0) for piece in pieces]
        tok = Tokenizer(models.Unigram(scores, unk_id=3))
        tok.normalizer = normalizers.NFKC()
        tok.pre_tokenizer = pre_tokenizers.Metaspace()
        tok.decoder = decoders.Metaspace()
        first, last = "<s>", "</s>"
    ids = [(token, tok.token_to_id(token)) for token in (first, last)]
    tok.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=ids
    )
    # Real tokenizer files come with such settings baked in; they must not matter.
    tok.enable_truncation(8)
    tok.enable_padding(length=8, pad_id=tok.token_to_id(special[0 if kind == "wordpiece" else 1]))
    return tok


def model(folder: Path, family: str = "bert", seed: int = 0, **config: Any) -> Path:
    """Write a tiny pretrained encoder of ``family`` into ``folder``, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    tok = tokenizer(TOKENIZERS[family])
    tok.save(str(folder / "tokenizer.json"))
    wordpiece = TOKENIZERS[family] == "wordpiece"
    pad = tok.token_to_id("[PAD]" if wordpiece else "<pad>")
    first, last = (
        tok.token_to_id(t) for t in (("[CLS]", "[SEP]") if wordpiece else ("<s>", "</s>"))
    )
    settings = {
        "vocab_size": tok.get_vocab_size(),
        "pad_token_id": pad,
        "bos_token_id": first,
        "cls_token_id": first,
        "eos_token_id": last,
        "sep_token_id": last,
        **CONFIGS[family],
        **config,
    }
    torch.manual_seed(seed)
    built = transformers.AutoConfig.for_model(family, **settings)
    transformers.AutoModel.from_config(built).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 10**30,
            "pad_token": "[PAD]" if wordpiece else "<pad>",
            "cls_token": "[CLS]" if wordpiece else "<s>",
            "sep_token": "[SEP]" if wordpiece else "</s>",
            "unk_token": "[UNK]" if wordpiece else "<unk>",
        })
    )  # fmt: skip
    return folder


def table(path: Path, rows: list[tuple[str, ...]], columns: tuple[str, ...]) -> Path:
    """Write a plain tab-separated table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(columns), *("\t".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def rows(task: str, count: int = 24, boxed: bool = False) -> list[tuple[str, ...]]:
    """Labelled rows that a tiny model can learn: the label follows from the words."""
    made: list[tuple[str, ...]] = []
    for i in range(count):
        text = f"{SENTENCES[i % 8]} {'again ' * (i // 8)}number {i}"
        words = text.split()
        label = {
            "classif": ("delivery", "delivery", "billing", "billing", "order", "order", "praise",
                        "praise")[i % 8],
            "multilabel-classif": ('"angry","parcel"', '"parcel"', '"angry","money"', '"money"',
                                   '"order"', '"money"', "", '"angry"')[i % 8],
            "ner": " ".join("B-THING" if w in ("parcel", "invoice", "lemons", "staff") else "O"
                            for w in words),
            "regression": str((1.0, 2.0, 1.5, 2.5, 4.0, 3.0, 5.0, 0.5)[i % 8]),
        }[task]  # fmt: skip
        boxes = " ".join(f"{k % 100} {i} {k % 100 + 50} {i + 9}" for k in range(len(words)))
        made.append((text, boxes, label) if boxed else (text, label))
    return made


def data(folder: Path, task: str, boxed: bool = False) -> Path:
    """A folder with train, dev and test tables for ``task``."""
    columns = ("text", "bbox", "labels") if boxed else ("text", "labels")
    made = rows(task, 40, boxed)
    for name, part in (("train", made[:24]), ("dev", made[24:32]), ("test", made[32:])):
        table(folder / f"{name}.csv", part, columns)
    return folder


def hparams(task: str, folder: Path, **more: Any) -> dict[str, Any]:
    """A run of a few steps."""
    return {"task_name": task, "model_name": str(folder), "max_steps": 4, "eval_steps": 2,
            "per_device_train_batch_size": 4, "learning_rate": 1e-3, "precision": "fp32",
            "report": False,
            **more}  # fmt: skip
