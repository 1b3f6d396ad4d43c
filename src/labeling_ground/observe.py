"""Logging. Nothing here is global but the standard library's logging tree."""

import json
import logging
import sys
import time
from typing import Any, Literal, TextIO

access = logging.getLogger("labeling_ground.access")
"""One line a request; the fields are in ``record.fields``."""


class TextFormatter(logging.Formatter):
    """For people."""

    _second = 0
    _stamp = ""

    def format(self, record: logging.LogRecord) -> str:
        """One line: time, level, message, fields."""
        if int(record.created) != self._second:
            self._second = int(record.created)
            self._stamp = time.strftime("%H:%M:%S", time.localtime(self._second))
        stamp = self._stamp
        fields: dict[str, Any] = getattr(record, "fields", {})
        text = " ".join(f"{name}={value}" for name, value in fields.items())
        said = f"{record.getMessage()} {text}".rstrip()
        if not said.isprintable():  # paths and session names are the client's: none may look like a line of ours
            said = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in said)
        line = f"{stamp} {record.levelname.lower():7} {said}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """For machines."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object a line."""
        fields: dict[str, Any] = getattr(record, "fields", {})
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def logs_text(log_format: Literal["auto", "text", "json"], stream: TextIO | None = None) -> bool:
    """Whether log lines are for people: asked for, or ``auto`` on a terminal."""
    return log_format == "text" or (log_format == "auto" and (stream or sys.stderr).isatty())


def set_up_logging(level: str, log_format: Literal["auto", "text", "json"], stream: TextIO | None = None) -> None:
    """Send all log lines to one stream (stderr by default), in one form."""
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(TextFormatter() if logs_text(log_format, target) else JsonFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # It warns of every malformed form; such a request gets its answer and its one line like any other.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
