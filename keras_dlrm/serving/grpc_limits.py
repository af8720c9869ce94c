"""Limits for gRPC clients: connections, metadata, sending time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from keras_dlrm.serving.limits import Budget, Limits
from keras_dlrm.serving.wire.errors import ServingError

# Requests whose messages are received at a time: each may hold a message of the largest size.
RECEIVING = 64
_LOOK_SECONDS = 0.25
# Where all of them wait for their clients, those that do so for a second make room.
_SECONDS_IF_ALL_WAIT = 1.0
_MINUTE = 60_000


def channel_options(limits: Limits, max_bytes: int, connections: int) -> list[tuple[str, int]]:
    """gRPC's own bounds; `max_bytes` of a message and a number of open connections are among them."""
    milliseconds = int(1000 * limits.request_seconds)
    return [
        # Two servers on one port would share its connections, and nobody would know.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", limits.header_bytes),
        ("grpc.absolute_max_metadata_size", limits.header_bytes),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.max_concurrent_streams", 128),
        # A connection that never says that it speaks HTTP/2.
        ("grpc.server_handshake_timeout_ms", milliseconds),
        ("grpc.http2.settings_timeout", milliseconds),
        # A client that is gone without a word; one that asks for nothing.
        ("grpc.keepalive_time_ms", _MINUTE),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.max_connection_idle_ms", 30 * _MINUTE),
    ]


class Receiving(grpc.ServerInterceptor):
    """Waits for messages, at most `seconds` for each, and lets so many requests run at a time as there are slots.

    gRPC gives a thread to a request before its message is there, and waits for that without end: a few clients that
    send half a request would hold all threads. So messages are received here, as of a stream of one, which shows the
    call beforehand. The budget is of the bytes of all messages in flight.
    """

    def __init__(self, seconds: float, budget: Budget, slots: threading.Semaphore) -> None:
        self._seconds, self._budget, self._slots = seconds, budget, slots
        self._waiting: dict[grpc.ServicerContext, float] = {}
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._cancel_slow_ones, name="grpc-slow", daemon=True)

    def start(self) -> None:
        """Begin to look for slow clients."""
        self._watch.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """The method's handler, with the message received here."""
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler

        def answer(messages: Iterator[Any], context: grpc.ServicerContext) -> Any:
            self._waiting[context] = time.monotonic()
            try:
                message = next(messages, None)
            finally:
                del self._waiting[context]
            if message is None:
                return context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request has no message.")
            size = message.ByteSize()
            try:
                self._budget.take(size)
            except ServingError as error:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, error.message)
            try:
                with self._slots:
                    return handler.unary_unary(message, context)
            finally:
                self._budget.give(size)

        return grpc.stream_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)

    def _cancel_slow_ones(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            waiting = list(self._waiting.items())
            allowed = self._seconds if len(waiting) < RECEIVING else min(self._seconds, _SECONDS_IF_ALL_WAIT)
            now = time.monotonic()
            for context, since in waiting:
                if now - since > allowed:
                    context.cancel()
