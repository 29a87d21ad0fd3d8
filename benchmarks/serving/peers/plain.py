"""What many write first: FastAPI around a transformers pipeline, one text at a time.

python plain.py MODEL_DIR PORT
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

app = FastAPI()
answer = pipeline("text-classification", model=sys.argv[1], truncation=True)


class Asked(BaseModel):
    """A request."""

    inputs: str


@app.post("/invocations")
def predict(asked: Asked) -> list[dict[str, Any]]:
    """The pipeline's answer."""
    found: list[dict[str, Any]] = answer(asked.inputs)
    return found


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
