"""The inference toolkit under transformers 5, whose images carry a newer one than is released.

The released one asks transformers for a name that version 5 no longer has. Run as a script it
starts the server, which then imports it as its handler.
"""

from __future__ import annotations

import transformers.file_utils

transformers.file_utils.is_tf_available = lambda: False

from sagemaker_huggingface_inference_toolkit import handler_service, mms_model_server  # noqa: E402


class Service(handler_service.HuggingFaceHandlerService):
    """The toolkit's own, in a module that the server can import."""


if __name__ == "__main__":
    mms_model_server.start_model_server(handler_service="toolkit_5")
