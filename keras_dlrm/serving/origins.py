"""Check of Host and Origin: which pages of a browser may use the server."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from keras_dlrm.serving.rest_calls import dump

# What TensorFlow Serving answers, health and metrics are for programs: they come under any name, but not from other pages.
_FOR_PROGRAMS = ("/v1/", "/health/", "/metrics", "/monitoring/")
_EXPLAIN = ":explain"


class OwnPages:
    """Refuses what the browser of somebody else's page sends.

    A request with an `Origin` must come from a page of this server, or of a host that is allowed by name: a page
    elsewhere cannot post. The page, its data and `:explain` are given under allowed names of the host only: a name that
    was pointed at this machine (DNS rebinding) reads nothing. Programs send no `Origin`.

    Args:
        app: What answers.
        host: Address that the server listens on: allowed, besides `localhost`, loopback addresses and, where it listens
            on all, the machine's name.
        allowed: More names, such as a reverse proxy's.
    """

    def __init__(self, app: ASGIApp, host: str, allowed: Iterable[str] = ()) -> None:
        self._app = app
        self._allowed = {name.lower().strip("[]") for name in allowed}
        self._own = {"localhost", host.lower()} | self._allowed
        address = _address(host)
        if address is not None and address.is_unspecified:
            self._own.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] == "http" and (why := self._fault(scope)):
            response = Response(dump({"error": why}), 403, media_type="application/json")
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _fault(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        host, origin, path = headers.get("host", ""), headers.get("origin"), scope["path"]
        name = _name(host)
        if origin is not None or not path.startswith(_FOR_PROGRAMS) or path.endswith(_EXPLAIN):
            if not self._is_own(name, scope):
                return f"the page is not served under the name {name[:80]!r}; allow it with --allowed-host, or use localhost."
        if origin is not None:
            place = origin.partition("://")[2]
            if not place or (place.lower() != host.lower() and _name(place) not in self._allowed):
                return f"a page of {origin[:80]!r} may not use this server; allow its host with --allowed-host."
        return ""

    def _is_own(self, name: str, scope: Scope) -> bool:
        address = _address(name)
        return name in self._own or name == (scope.get("server") or ("",))[0] or (address is not None and address.is_loopback)


def _name(place: str) -> str:
    """The host in `host:port`.

    Example:

    >>> _name("LocalHost:8501"), _name("[::1]:8501"), _name("[::1]")
    ('localhost', '::1', '::1')
    """
    if place.startswith("["):
        return place[1:].partition("]")[0].lower()
    return place.partition(":")[0].lower().rstrip(".")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a host is, `None` where it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
