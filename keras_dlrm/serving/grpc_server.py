"""gRPC server: `PredictionService` and `ModelService`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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

from keras_dlrm.serving.grpc_limits import RECEIVING, Receiving, channel_options
from keras_dlrm.serving.limits import connections_that_fit
from keras_dlrm.serving.service import Call, Service, Target
from keras_dlrm.serving.versions import operations
from keras_dlrm.serving.wire.errors import ServingError, invalid
from keras_dlrm.serving.wire.tensors import fill_proto

log = logging.getLogger("keras_dlrm.serving")


def target_of(spec: Any) -> Target:
    """The target that a `ModelSpec` names."""
    choice = spec.WhichOneof("version_choice")
    return Target(
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


class _Servicer:
    """A part of the interface that a `Service` answers."""

    def __init__(self, service: Service) -> None:
        self._service = service

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

    Args:
        service: What answers.
        address: Host and port.
        slots: Taken while a request runs.
        concurrency: Requests in all, waiting ones too; beyond it a client gets RESOURCE_EXHAUSTED.

    Raises:
        OSError: the port is taken.
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
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise OSError(f"gRPC cannot listen on {address}; is the port taken? Give another with --grpc-port, 0 for any.")

    def start(self) -> None:
        """Answer requests."""
        self._receiving.start()
        self._server.start()

    def stop(self, grace: float) -> threading.Event:
        """Take no more requests; the event is set when those that run are answered, or after `grace` seconds."""
        self._receiving.stop()
        return self._server.stop(grace)

    def close(self) -> None:
        """Give the threads back."""
        self._pool.shutdown(wait=False, cancel_futures=True)
