"""What the HuggingFace inference containers call on SageMaker.

The toolkit counts parameters, defaults included, and hands ``context`` to functions that take one
more than they must: so each has exactly its arguments and ``context``. It answers every exception
with 400 and ``str(error)`` inside a message of its own, whatever status the context was told. So in
a container a refused request is no exception: it travels on as ``Refused``, and ``output_fn``
answers it with its status and its error object.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfserve import codecs, strict_json
from tfserve.codecs import Request
from tfserve.errors import TfserveError
from tfserve.predictor import Predictor, load
from tfserve.settings import Settings
from tfserve.tasks.common import Answer


@dataclass(frozen=True)
class Refused:
    """A request that will be answered with its error."""

    error: TfserveError


def model_fn(model_dir: Path | str, context: Any = None) -> Predictor:
    """Load the model directory as the environment's settings say.

    Raises ModelError when it is none or is damaged, SettingsError or ParameterError for a setting.
    """
    try:
        settings = Settings.from_environment()
        return load(
            model_dir,
            engine=settings.engine,
            precision=settings.precision,
            parameters=settings.parameters,
        )
    except TfserveError as error:
        if context is None:
            raise
        raise type(error)(error.code, strict_json.dumps(error.as_dict())) from None


def input_fn(
    data: bytes | bytearray | str, content_type: str | None, context: Any = None
) -> Request | Refused:
    """Decode a body.

    Raises BodyError (400), TooLargeError (413) or MediaTypeError (415) where there is no context.
    """
    try:
        settings = Settings.from_environment()
        settings.check_body(len(data))
        request = codecs.decode(data, content_type, settings.max_records)
        settings.check_records(len(request.items))
        return request
    except TfserveError as error:
        return _refused(error, context)


def predict_fn(
    data: Request | Refused, model: Predictor, context: Any = None
) -> list[Answer] | Refused:
    """Answer a request.

    Raises RecordError (400), TooLargeError (413) or ParameterError (400) where there is no context.
    """
    if isinstance(data, Refused):
        return data
    try:
        return model.answer(data)
    except TfserveError as error:
        return _refused(error, context)


def output_fn(prediction: list[Answer] | Refused, accept: str | None, context: Any = None) -> str:
    """Encode answers as JSON or JSON Lines; an error object where the request was refused.

    Raises NotAcceptableError (406) where there is no context.
    """
    if not isinstance(prediction, Refused):
        try:
            return codecs.encode(prediction, accept)
        except TfserveError as error:
            prediction = _refused(error, context)
    reason = prediction.error
    context.set_response_status(reason.status, reason.code, 0)
    return strict_json.dumps(reason.as_dict())


def _refused(error: TfserveError, context: Any) -> Refused:
    if context is None:
        raise error
    return Refused(error)
