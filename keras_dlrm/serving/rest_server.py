"""REST routes, metrics, health and the page: an ASGI application; which pages of a browser may use it."""

import asyncio
import ipaddress
import logging
import mimetypes
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from keras_dlrm.serving import metrics, rest_calls
from keras_dlrm.serving.service import Service
from keras_dlrm.serving.versions.features import features_of
from keras_dlrm.serving.wire.errors import ServingError

log = logging.getLogger("keras_dlrm.serving")
# A client that sends too much is listened to for so long, times the limit, that it comes to read the answer.
_PATIENCE = 16
_HEADERS = {"Cache-Control": "no-store"}
# The page loads nothing from anywhere else, and nothing loads it.
_PAGE_HEADERS = {
    **_HEADERS,
    "Content-Security-Policy": "default-src 'self'; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
# What TensorFlow Serving answers, health and metrics are for programs: they come under any name, but not from other pages.
_FOR_PROGRAMS = ("/v1/", "/health/", "/metrics", "/monitoring/")


class RestServer:
    """The application of REST, whose page is served under `host`, the address that is listened on, and `allowed_hosts`.

    A slot, shared with gRPC, is taken while a request runs; beyond `concurrency` requests, waiting ones too, a client gets 429.
    """

    def __init__(
        self, service: Service, pool: ThreadPoolExecutor, slots: threading.Semaphore, concurrency: int, host: str,
        allowed_hosts: Iterable[str] = (),
    ) -> None:  # fmt: skip
        self._service, self._pool, self._slots, self._concurrency = service, pool, slots, concurrency
        self._running = 0
        self.draining = False
        routes = [
            Route("/", _page("index.html")),
            Route("/page.js", _page("page.js")),
            Route("/page.css", _page("page.css")),
            Route("/page/models", self._page_models),
            Route("/health/live", _fixed(b'{"status":"alive"}', "application/json", _HEADERS)),
            Route("/health/ready", self._ready),
            Route("/metrics", self._metrics),
            Route("/monitoring/prometheus/metrics", self._metrics),  # TensorFlow Serving's own address
            Route("/v1/{rest:path}", self._get, methods=["GET"]),
            Route("/v1/{rest:path}", self._post, methods=["POST"]),
        ]
        self.app = Starlette(
            routes=routes,
            middleware=[Middleware(OwnPages, host=host, allowed=allowed_hosts)],
            exception_handlers={
                HTTPException: _http_error, ServingError: _serving_error, ClientDisconnect: _gone, Exception: _failure,
            },  # fmt: skip
        )

    async def _in_pool(self, work: Callable[..., Any], *args: Any) -> Any:
        if self._running >= self._concurrency:
            text = f"{self._concurrency} requests are running or waiting already; try again."
            raise self._service.metrics.refused("rest", ServingError("RESOURCE_EXHAUSTED", text))
        self._running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._in_slot, work, *args)
        finally:
            self._running -= 1

    def _in_slot(self, work: Callable[..., Any], *args: Any) -> Any:
        with self._slots:
            return work(*args)

    async def _post(self, request: Request) -> Response:
        async with self._body(request) as body:
            return _json(await self._in_pool(rest_calls.answer_post, self._service, request.scope["path"], body))

    async def _get(self, request: Request) -> Response:
        return _json(await self._in_pool(rest_calls.answer_get, self._service, request.scope["path"]))

    @asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        """The body, within the limits, in the budget until it is answered; what is beyond is thrown away as it comes."""
        budget, body, held, size = self._service.budget, bytearray(), 0, 0
        error: ServingError | None = None
        try:
            encoding = request.headers.get("content-encoding", "identity")
            if encoding.strip().lower() not in ("identity", ""):
                error = ServingError("INVALID_ARGUMENT", f"Content-Encoding {encoding[:40]!r} is not read; send plain JSON.", 415)
            async for part in request.stream():
                size += len(part)
                if error is None:
                    try:
                        if size > self._service.max_bytes:
                            text = f"the request is larger than the {self._service.max_bytes} bytes allowed."
                            raise ServingError("INVALID_ARGUMENT", text, 413)
                        budget.take(len(part))
                        held += len(part)
                        body += part
                    except ServingError as refused:
                        error = refused
                        budget.give(held)
                        body, held = bytearray(), 0
                if size > _PATIENCE * self._service.max_bytes:
                    break
            if error is not None:
                raise self._service.metrics.refused("rest", error)
            yield bytes(body)
        finally:
            budget.give(held)

    async def _ready(self, request: Request) -> Response:
        if self.draining:
            raise ServingError("UNAVAILABLE", "the server is stopping.")
        if not self._service.ready:
            raise ServingError("UNAVAILABLE", "a model has no version that could be loaded.")
        return _json(b'{"status":"ready"}')

    async def _metrics(self, request: Request) -> Response:
        return Response(self._service.metrics.text(), headers={**_HEADERS, "Content-Type": metrics.CONTENT_TYPE})

    async def _page_models(self, request: Request) -> Response:
        return _json(await self._in_pool(_described_models, self._service))


def _described_models(service: Service) -> bytes:
    """Models, their versions, and the features of each signature that has rows of them, for the page."""
    models = []
    for name, model in sorted(service.models.items()):
        versions = []
        for number in sorted(model.available, reverse=True):
            with model.lease(number) as version:
                signatures = []
                for signature in version.model.signatures.values():
                    example = version.examples.get(signature.name, {})
                    with suppress(ServingError):  # it has no rows of features
                        described = [
                            {**feature.described(example.get(feature.input)), "nullable": feature.input in signature.missing}
                            for feature in features_of(signature, version.schema)
                        ]
                        # Of items: the page asks for their list.
                        numbers = [name for name in signature.outputs if name != "ids"]
                        items = numbers[0] if "ids" in signature.outputs and numbers else None
                        signatures.append({"name": signature.name, "features": described, "items": items})
            versions.append({"number": number, "signatures": signatures})
        states = [
            {"number": v.number, "state": v.state, "error": "" if v.error is None else v.error.message} for v in model.versions
        ]
        models.append({"name": name, "labels": dict(model.config.labels), "versions": versions, "states": states})
    return rest_calls.dump({"models": models})


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers={**_HEADERS, **(headers or {})}, media_type="application/json")


def _page(name: str) -> Callable[[Request], Awaitable[Response]]:
    body = resources.files("keras_dlrm.serving").joinpath("page", name).read_bytes()
    return _fixed(body, mimetypes.guess_type(name)[0], _PAGE_HEADERS)


def _fixed(body: bytes, kind: str | None, headers: dict[str, str]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return Response(body, headers=headers, media_type=kind)

    return endpoint


async def _serving_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ServingError):
        raise error
    headers = {"Retry-After": "1"} if error.http_status in (429, 503) else {}
    return _json(rest_calls.dump({"error": error.message}), error.http_status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """An address or a method that no route has."""
    if not isinstance(error, HTTPException):
        raise error
    message = {404: "there is nothing here; requests go to /v1/models/NAME:predict", 405: "not with this method"}
    text = f"{request.method[:10]} {request.scope['path'][:80]}: {message.get(error.status_code, str(error.detail))}."
    return _json(rest_calls.dump({"error": text}), error.status_code, dict(error.headers or {}))


async def _gone(request: Request, error: Exception) -> Response:
    """The client hung up in the middle of its request; nobody reads this."""
    return Response(status_code=499)


async def _failure(request: Request, error: Exception) -> Response:
    """An unexpected error. Starlette raises it again afterwards, and so it comes into the log."""
    return _json(rest_calls.dump({"error": f"the server failed: {type(error).__name__}; its log has the rest."}), 500)


class OwnPages:
    """Refuses what the browser of somebody else's page sends.

    A request with an `Origin` must come from a page of this server, or of a host that is allowed by name: a page
    elsewhere cannot post. The page, its data and `:explain` are given under allowed names of the host only: a name that
    was pointed at this machine (DNS rebinding) reads nothing. Programs send no `Origin`. Allowed are the address that the server
    listens on, `localhost`, loopback addresses, the machine's name where it listens on all, and `allowed` ones.
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
            await Response(rest_calls.dump({"error": why}), 403, media_type="application/json")(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _fault(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        host, origin, path = headers.get("host", ""), headers.get("origin"), scope["path"]
        name = _name(host)
        if origin is not None or not path.startswith(_FOR_PROGRAMS) or path.endswith(":explain"):
            address = _address(name)
            is_own = name in self._own or name == (scope.get("server") or ("",))[0]
            if not is_own and not (address is not None and address.is_loopback):
                return f"the page is not served under the name {name[:80]!r}; allow it with --allowed-host, or use localhost."
        if origin is not None:
            place = origin.partition("://")[2]
            if not place or (place.lower() != host.lower() and _name(place) not in self._allowed):
                return f"a page of {origin[:80]!r} may not use this server; allow its host with --allowed-host."
        return ""


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
