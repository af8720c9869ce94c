"""gRPC server: `PredictionService` and `ModelService`, with limits for clients."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from keras_dlrm.serving.limits import Budget, Limits, connections_that_fit
from keras_dlrm.serving.service import Call, Service, Target
from keras_dlrm.serving.versions import operations
from keras_dlrm.serving.wire.errors import ServingError, invalid
from keras_dlrm.serving.wire.tensors import fill_proto

# Requests whose messages are received at a time: each may hold a message of the largest size.
RECEIVING = 64
_LOOK_SECONDS = 0.25
# Where all of them wait for their clients, those that do so for a second make room.
_SECONDS_IF_ALL_WAIT = 1.0
_MINUTE = 60_000
log = logging.getLogger("keras_dlrm.serving")


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
    call beforehand. The budget is of the bytes of all messages in flight; `watch` looks for slow clients until `stopped`.
    """

    def __init__(self, seconds: float, budget: Budget, slots: threading.Semaphore) -> None:
        self._seconds, self._budget, self._slots = seconds, budget, slots
        self._waiting: dict[grpc.ServicerContext, float] = {}
        self.stopped = threading.Event()
        self.watch = threading.Thread(target=self._cancel_slow_ones, name="grpc-slow", daemon=True)

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
            try:
                self._budget.take(size := message.ByteSize())
            except ServingError as error:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, error.message)
            try:
                with self._slots:
                    return handler.unary_unary(message, context)
            finally:
                self._budget.give(size)

        return grpc.stream_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)

    def _cancel_slow_ones(self) -> None:
        while not self.stopped.wait(_LOOK_SECONDS):
            waiting = list(self._waiting.items())
            allowed = self._seconds if len(waiting) < RECEIVING else min(self._seconds, _SECONDS_IF_ALL_WAIT)
            now = time.monotonic()
            for context, since in waiting:
                if now - since > allowed:
                    context.cancel()


def target_of(spec: Any) -> Target:
    """The target that a `ModelSpec` names."""
    choice = spec.WhichOneof("version_choice")
    number, label = spec.version.value, spec.version_label
    return Target(spec.name, number if choice == "version" else None, label if choice == "version_label" else None)


@dataclass
class _Servicer:
    """A part of the interface that a `Service` answers."""

    _service: Service

    @contextmanager
    def _call(self, method: str, request: Any, response: Any) -> Iterator[Call]:
        """The version and signature that a request means, which the response names; the block is timed."""
        with self._service.metrics.measure("grpc", method) as measured:
            spec = request.model_spec
            with self._service.call(target_of(spec), spec.signature_name, measured) as call:
                response.model_spec.name = call.version.model_name
                response.model_spec.version.value = call.version.number
                response.model_spec.signature_name = call.signature.name
                yield call


def _answered(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    """A method whose errors become a status with one sentence; an unexpected one is logged, and hides nothing of itself."""

    @wraps(method)
    def answer(servicer: _Servicer, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(servicer, request)
        except ServingError as error:
            context.abort(getattr(grpc.StatusCode, error.code), error.message)
        except Exception as error:
            log.exception("gRPC %s failed", method.__name__)
            context.abort(grpc.StatusCode.INTERNAL, f"the server failed: {type(error).__name__}; its log has the rest.")

    return answer


class PredictionService(_Servicer, prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify, Regress and GetModelMetadata."""

    @_answered
    def Predict(self, request: Any) -> Any:
        response = predict_pb2.PredictResponse()
        with self._call("predict", request, response) as call:
            arrays = operations.arrays_from_proto(request.inputs, call.signature, self._service.max_bytes)
            outputs = operations.run(call.version.model, call.signature, arrays, request.output_filter)
            self._service.unseen.note(call.version, arrays)
            for name, array in outputs.items():
                fill_proto(response.outputs[name], array)
        return response

    @_answered
    def Classify(self, request: Any) -> Any:
        response = classification_pb2.ClassificationResponse()
        with self._call("classify", request, response) as call:
            for row in operations.classify(call.version.model, call.signature, request.input, self._service.max_bytes):
                classes = response.result.classifications.add().classes
                for label, score in row:
                    classes.add(label=label, score=score)
        return response

    @_answered
    def Regress(self, request: Any) -> Any:
        response = regression_pb2.RegressionResponse()
        with self._call("regress", request, response) as call:
            for value in operations.regress(call.version.model, call.signature, request.input, self._service.max_bytes):
                response.result.regressions.add(value=value)
        return response

    @_answered
    def MultiInference(self, request: Any) -> Any:
        raise ServingError("UNIMPLEMENTED", "the stand-in has no MultiInference; ask with Classify and Regress.")

    @_answered
    def GetModelMetadata(self, request: Any) -> Any:
        with self._service.metrics.measure("grpc", "metadata"):
            for field in request.metadata_field:
                if field != "signature_def":
                    raise invalid(f"metadata_field {field[:60]!r} is not served; ask for 'signature_def'.")
            if not request.metadata_field:
                raise invalid("the request needs a metadata_field, 'signature_def'.")
            return self._service.metadata(target_of(request.model_spec))[0]


class ModelService(_Servicer, model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus."""

    @_answered
    def GetModelStatus(self, request: Any) -> Any:
        with self._service.metrics.measure("grpc", "status"):
            return self._service.status(target_of(request.model_spec))

    @_answered
    def HandleReloadConfigRequest(self, request: Any) -> Any:
        raise ServingError("UNIMPLEMENTED", "the stand-in takes no configuration over gRPC; change the file of --config.")


class GrpcServer:
    """The server of gRPC: bound to an address (host and port; port 0 for any that is free) when made, started by `start`.

    A slot is taken while a request runs; a client beyond `concurrency` gets RESOURCE_EXHAUSTED. `OSError`: a taken port.
    """

    def __init__(self, service: Service, address: str, slots: threading.Semaphore, concurrency: int) -> None:
        limits = service.limits
        self._pool = ThreadPoolExecutor(min(RECEIVING, concurrency), "grpc")
        self._receiving = Receiving(limits.request_seconds, service.budget, slots)
        self._server = grpc.server(
            self._pool,
            options=channel_options(limits, service.max_bytes, connections_that_fit(limits.connections)),
            interceptors=[self._receiving],
            maximum_concurrent_rpcs=concurrency,
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(service), self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(service), self._server)
        self.port = 0
        with suppress(RuntimeError):
            self.port = self._server.add_insecure_port(address)
        if not self.port:
            raise OSError(f"gRPC cannot listen on {address}; is the port taken? Give another with --grpc-port, 0 for any.")

    def start(self) -> None:
        """Answer requests."""
        self._receiving.watch.start()
        self._server.start()

    def stop(self, grace: float) -> threading.Event:
        """Take no more requests; the event is set when those that run are answered, or after `grace` seconds."""
        self._receiving.stopped.set()
        return self._server.stop(grace)

    def close(self) -> None:
        """Give the threads back."""
        self._pool.shutdown(wait=False, cancel_futures=True)
