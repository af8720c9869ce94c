"""REST routes, metrics, health and the page: an ASGI application."""

from __future__ import annotations

import asyncio
import logging
import mimetypes
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from keras_dlrm.serving import metrics, rest_calls
from keras_dlrm.serving.origins import OwnPages
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


class RestServer:
    """The application of REST.

    Args:
        service: What answers.
        pool: Threads of the requests.
        slots: Taken while a request runs, by those of gRPC, too.
        concurrency: Requests in all, waiting ones too; beyond it a client gets 429.
        host: Address that it listens on.
        allowed_hosts: More names under which the page is served.
    """

    def __init__(
        self, service: Service, pool: ThreadPoolExecutor, slots: threading.Semaphore, concurrency: int, host: str,
        allowed_hosts: Iterable[str] = (),
    ) -> None:  # fmt: skip
        self._service = service
        self._pool, self._slots = pool, slots
        self._concurrency = concurrency
        self._running = 0
        self.draining = False
        routes = [
            Route("/", _page("index.html")),
            Route("/page.js", _page("page.js")),
            Route("/page.css", _page("page.css")),
            Route("/page/models", self._page_models),
            Route("/health/live", self._live),
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
        budget, held = self._service.budget, 0
        try:
            body = bytearray()
            size = 0
            error: ServingError | None = None
            encoding = request.headers.get("content-encoding", "identity")
            if encoding.strip().lower() not in ("identity", ""):
                text = f"Content-Encoding {encoding[:40]!r} is not read; send plain JSON."
                error = ServingError("INVALID_ARGUMENT", text, 415)
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

    async def _live(self, request: Request) -> Response:
        return _json(b'{"status":"alive"}')

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
                schema = version.schema
                signatures = []
                for signature in version.model.signatures.values():
                    try:
                        features = features_of(signature, schema)
                    except ServingError:
                        continue
                    example = version.examples.get(signature.name, {})
                    described = [
                        {**feature.described(example.get(feature.input)), "nullable": feature.input in signature.missing}
                        for feature in features
                    ]
                    signatures.append({"name": signature.name, "features": described})
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
    kind = mimetypes.guess_type(name)[0]

    async def endpoint(request: Request) -> Response:
        return Response(body, headers=_PAGE_HEADERS, media_type=kind)

    return endpoint


async def _serving_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ServingError):
        raise error
    headers = {"Retry-After": "1"} if error.http_status in (429, 503) else {}
    return _json(rest_calls.error_body(error), error.http_status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """An address or a method that no route has."""
    if not isinstance(error, HTTPException):
        raise error
    message = {404: "there is nothing here; requests go to /v1/models/NAME:predict", 405: "not with this method"}
    text = message.get(error.status_code, str(error.detail))
    path = request.scope["path"][:80]
    body = rest_calls.dump({"error": f"{request.method[:10]} {path}: {text}."})
    return _json(body, error.status_code, dict(error.headers or {}))


async def _gone(request: Request, error: Exception) -> Response:
    """The client hung up in the middle of its request; nobody reads this."""
    return Response(status_code=499)


async def _failure(request: Request, error: Exception) -> Response:
    """An unexpected error. Starlette raises it again afterwards, and so it comes into the log."""
    text = f"the server failed: {type(error).__name__}; its log has the rest."
    return _json(rest_calls.dump({"error": text}), 500)
