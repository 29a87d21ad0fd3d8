"""What the HuggingFace inference containers call on SageMaker.

The toolkit counts parameters, defaults included, and hands ``context`` to functions that take one
more than they must: so each has exactly its arguments and ``context``. It answers every exception
with ``str(error)``, which is therefore the error object as JSON, and with 400 unless the context
was told another status.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfserve import codecs
from tfserve.codecs import Request
from tfserve.errors import TfserveError
from tfserve.predictor import Predictor, load
from tfserve.settings import Settings
from tfserve.tasks.base import Answer


def model_fn(model_dir: Path | str, context: Any = None) -> Predictor:
    """Load the model directory as the environment's settings say.

    Raises ModelError when it is none or is damaged, SettingsError or ParameterError for a setting.
    """
    with _reporting(context):
        settings = Settings.from_environment()
        return load(model_dir, precision=settings.precision, parameters=settings.parameters)


def input_fn(
    data: bytes | bytearray | str, content_type: str | None, context: Any = None
) -> Request:
    """Decode a body; raises BodyError (400), TooLargeError (413) or MediaTypeError (415)."""
    with _reporting(context):
        settings = Settings.from_environment()
        settings.check_body(len(data))
        request = codecs.decode(data, content_type)
        settings.check_records(len(request.items))
        return request


def predict_fn(data: Request, model: Predictor, context: Any = None) -> list[Answer]:
    """Answer a request; raises RecordError (400) or ParameterError (400)."""
    with _reporting(context):
        return model.answer(data)


def output_fn(prediction: list[Answer], accept: str | None, context: Any = None) -> str:
    """Encode answers as JSON or JSON Lines; raises MediaTypeError (406)."""
    with _reporting(context):
        return codecs.encode(prediction, accept)


@contextmanager
def _reporting(context: Any) -> Iterator[None]:
    """Give an error its status, and make its text the error object, where a container asks."""
    try:
        yield
    except TfserveError as error:
        if context is not None:
            context.set_response_status(error.status, error.code, 0)
            raise type(error)(error.code, codecs.dumps(error.as_dict())) from None
        raise
