"""Errors for clients: gRPC code, HTTP status and one sentence."""

import re
from pathlib import Path

# An absolute path, up to what stands behind it in a sentence.
_PATH = re.compile(r"(?<![^\s'\"(\[=:;,])/(?:[^\s'\":;,)\]]*/)*[^\s'\":;,)\]]+")
# As TensorFlow Serving maps the codes of gRPC to those of HTTP.
HTTP_STATUS = {
    "OK": 200, "CANCELLED": 499, "UNKNOWN": 500, "INVALID_ARGUMENT": 400, "DEADLINE_EXCEEDED": 504, "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409, "PERMISSION_DENIED": 403, "RESOURCE_EXHAUSTED": 429, "FAILED_PRECONDITION": 400, "ABORTED": 409,
    "OUT_OF_RANGE": 400, "UNIMPLEMENTED": 501, "INTERNAL": 500, "UNAVAILABLE": 503, "DATA_LOSS": 500, "UNAUTHENTICATED": 401,
}  # fmt: skip


class ServingError(Exception):
    """A request, or a version, that cannot be served.

    Args:
        code: Name of a gRPC status code.
        message: One sentence for the client.
        http_status: Status where the code's own does not say enough, such as 413 for a request that is too large.
    """

    def __init__(self, code: str, message: str, http_status: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message = code, message
        self.http_status = HTTP_STATUS[code] if http_status is None else http_status


def invalid(message: str) -> ServingError:
    """`INVALID_ARGUMENT`: the request is at fault."""
    return ServingError("INVALID_ARGUMENT", message)


def without_paths(message: str, folder: Path | None = None, name: str = "") -> str:
    """A message for clients, who must not see the server's folders; `folder` is called `name`.

    Example:

    >>> without_paths("/srv/m/1 cannot be loaded: no /srv/m/1/variables, nor /etc/x.", Path("/srv/m/1"), "version 1")
    'version 1 cannot be loaded: no version 1/variables, nor …/x.'
    """
    if folder is not None:
        for path in {str(folder), str(folder.resolve())} - {"/"}:
            message = message.replace(path, name)
    return _PATH.sub(lambda match: f"…/{match[0].rsplit('/', 1)[1]}", message)


def shown(value: object, length: int = 60) -> str:
    """A value as it stands in a message, cut where it is long.

    Example:

    >>> shown("x" * 100, 8)
    "'xxxxxx…"
    """
    text = repr(value) if not isinstance(value, (list, dict)) or len(value) < 50 else f"{type(value).__name__}"
    return text if len(text) <= length else text[: length - 1] + "…"
