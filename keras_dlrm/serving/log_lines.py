"""Log lines that clients can neither forge nor multiply."""

import logging
import re
import threading
import time

# Of one kind of message, so many within so many seconds.
_REPEATS, _SECONDS = 20, 10.0
_MESSAGE, _TRACE = 2_000, 16_000
_KINDS = 1_000
# What ends a line, or moves a terminal's cursor.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class OneLine(logging.Formatter):
    """A message on one line, its control characters escaped and its length bounded; a traceback indented below it.

    Example:

    >>> record = logging.makeLogRecord({"msg": "no model %s", "args": ("a\\nb",), "levelname": "INFO"})
    >>> OneLine("%(levelname)s %(message)s").format(record)
    'INFO no model a\\\\nb'
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _cut(_CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), record.message), _MESSAGE)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:
        return _cut(super().formatException(ei), _TRACE).replace("\n", "\n  ")  # type: ignore[arg-type]


class Repeats(logging.Filter):
    """Lets a message of one kind through 20 times in 10 seconds, and says afterwards how many there were.

    Messages are of one kind where logger, level and text before its values are the same.

    Example:

    >>> repeats = Repeats()
    >>> sum(repeats.filter(logging.makeLogRecord({"msg": "no model %s"})) for _ in range(100))
    20
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, int, str], list[float]] = {}  # start of the span, messages in it

    def filter(self, record: logging.LogRecord) -> bool:
        kind = (record.name, record.levelno, str(record.msg)[:200])
        now = time.monotonic()
        with self._lock:
            if len(self._kinds) > _KINDS:
                self._kinds.clear()
            span = self._kinds.setdefault(kind, [now, 0])
            left_out = 0
            if now - span[0] > _SECONDS:
                left_out = int(span[1]) - _REPEATS
                span[:] = [now, 0]
            span[1] += 1
            shown = span[1] <= _REPEATS
        if shown and left_out > 0:
            record.msg = f"{record.getMessage()} ({left_out} more like it were left out)"
            record.args = ()
        return shown


def log_to_stderr() -> None:
    """Set the root logger up to write bounded lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(Repeats())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} characters more)"
