"""Training the embeddings of the tokens that occur, and of no others.

A table of a few thousand rows meets a tenth of a vocabulary, yet a dense gradient, its norm, and
AdamW's two moments are computed and stored for all of it: half of the parameters of MiniLM, two
thirds of those of XLM-RoBERTa. Rows of tokens that do not occur get no gradient, so leaving them
out of training changes nothing but that weight decay does not shrink them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from tfserve.arrays import Array


class Occurring(nn.Embedding):
    """An embedding of some ids of a vocabulary, called with the vocabulary's ids.

    Parameters
    ----------
    full : the embedding of the whole vocabulary
    ids : the ids that will be asked for, sorted
    """

    place: torch.Tensor

    def __init__(self, full: nn.Embedding, ids: Array) -> None:
        place = torch.full((full.num_embeddings,), -1, dtype=torch.long)
        place[torch.from_numpy(ids)] = torch.arange(len(ids))
        padding = None if full.padding_idx is None else int(place[full.padding_idx])
        super().__init__(len(ids), full.embedding_dim, padding_idx=padding)
        with torch.no_grad():
            self.weight.copy_(full.weight[torch.from_numpy(ids)])
        self.register_buffer("place", place, persistent=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Embeddings of the vocabulary's ids ``input``."""
        return super().forward(self.place[input])


class Vocabulary:
    """The embedding of a model, narrowed for training and made whole afterwards.

    Parameters
    ----------
    model : its input embedding is replaced
    occurring : ids of all texts that it will see until then
    pad_id : the token that fills a batch
    """

    def __init__(self, model: Any, occurring: Iterable[Array], pad_id: int) -> None:
        self.full: nn.Embedding = model.get_input_embeddings()
        padding = pad_id if self.full.padding_idx is None else self.full.padding_idx
        self.ids = np.unique(np.concatenate([np.array([pad_id, padding]), *occurring]))
        model.set_input_embeddings(Occurring(self.full, self.ids))

    def restore(self, model: Any) -> None:
        """Give ``model`` its whole embedding back, with what training made of it."""
        trained = model.get_input_embeddings().weight.detach()
        with torch.no_grad():
            self.full.weight[torch.from_numpy(self.ids)] = trained.to(self.full.weight)
        model.set_input_embeddings(self.full.to(trained.device))
