"""LitServe with dynamic batches around a transformers pipeline.

python lit.py MODEL_DIR PORT
"""

from __future__ import annotations

import sys
from typing import Any

import litserve
from transformers import pipeline

BATCH, WAIT = 32, 0.01
"""Texts of a batch, and the seconds that it waits for them."""


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """Answers texts in batches."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.model = pipeline("text-classification", model=sys.argv[1], truncation=True)

    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """The text; LitServe takes an annotation for a form of its own."""
        return str(request["inputs"])

    def predict(self, texts: list[str]) -> list[Any]:
        """The pipeline's answers."""
        return list(self.model(texts, batch_size=BATCH))

    def encode_response(self, answer: Any) -> Any:
        """As it is."""
        return answer


if __name__ == "__main__":
    api = Classifier(max_batch_size=BATCH, batch_timeout=WAIT)
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False)
