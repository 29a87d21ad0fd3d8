"""Logs as JSON Lines on standard error: for people, and for what collects them.

No line holds anything that a client sent but its request id: exceptions are told by their kind and
their place in the code, because their messages may quote what they choked on.
"""

from __future__ import annotations

import logging
import time
import traceback

from tfserve.strict_json import dumps


class JsonLines(logging.Formatter):
    """A record as one line: time, level, message, and its own ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        told = {
            "time": f"{moment}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0]:
            told["exception"] = record.exc_info[0].__name__
            told["stack"] = traceback.format_tb(record.exc_info[2])
        return dumps(told)


def configure() -> None:
    """For a process that does nothing but serve."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.getLogger().handlers = [handler]
    logging.getLogger("tfserve").setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
