"""`Server`: REST and gRPC, a pool of threads, and a watch over the folders."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn

from keras_dlrm.serving.grpc_server import GrpcServer
from keras_dlrm.serving.http_server import HttpServer
from keras_dlrm.serving.limits import Limits, connections_that_fit
from keras_dlrm.serving.rest_server import RestServer
from keras_dlrm.serving.service import Service
from keras_dlrm.serving.versions.config import ModelConfig, read_config
from keras_dlrm.serving.versions.served_model import ServedModel

log = logging.getLogger("keras_dlrm.serving")
DEFAULT_MAX_BYTES = 8 * 2**20


class Server:
    """A local stand-in for TensorFlow Serving, for development and tests, over REST and gRPC.

    Args:
        models: What is served: `ModelConfig`s, or the path of a `models.config`, which is then watched too.
        host: Address to listen on.
        port: Of REST; 0 for any that is free.
        grpc_port: Of gRPC; 0 for any that is free.
        threads: Requests that run at a time.
        queue: Requests that may wait besides; beyond it a client is sent away with 429 or RESOURCE_EXHAUSTED.
        max_bytes: Most bytes of a request.
        poll_seconds: Time between two looks at the folders.
        tensorflow_threads: Threads of one operation, and operations at a time; TensorFlow's own choice by default.
        allowed_hosts: Names under which a reverse proxy serves the page, besides `localhost` and `host`.
        limits: What clients may take; the defaults of `Limits` by default.

    Attributes:
        port, grpc_port: What it listens on, once started.
        service: The models.

    Example:

    >>> from keras_dlrm.serving import ModelConfig
    >>> Server([ModelConfig("clicks", Path("nowhere"))]).start()
    Traceback (most recent call last):
      ...
    FileNotFoundError: model 'clicks': no folder ...nowhere; ...
    """

    def __init__(
        self, models: Sequence[ModelConfig] | str | Path, host: str = "127.0.0.1", port: int = 8501, grpc_port: int = 8500,
        threads: int = 8, queue: int = 256, max_bytes: int = DEFAULT_MAX_BYTES, poll_seconds: float = 1.0,
        tensorflow_threads: int = 0, allowed_hosts: Sequence[str] = (), limits: Limits | None = None,
    ) -> None:  # fmt: skip
        self.host, self.port, self.grpc_port = host, port, grpc_port
        self._config_file = Path(models).absolute() if isinstance(models, (str, Path)) else None
        self._configs = read_config(models) if isinstance(models, (str, Path)) else list(models)
        self._config_time = self._modified()
        self._threads, self._concurrency = threads, threads + queue
        self._poll_seconds, self._tensorflow_threads = poll_seconds, tensorflow_threads
        self._allowed_hosts = tuple(allowed_hosts)
        self.service = Service(max_bytes, limits)
        self._stopping = threading.Event()
        self._refused = ""  # why the configuration was not taken over, said once

    def start(self) -> None:
        """Load what is there and listen. Versions that cannot be loaded are reported and do not keep it from starting.

        Raises:
            FileNotFoundError, ValueError: a folder is not there, or is a version itself.
            OSError: a port is taken.
        """
        for config in self._configs:
            config.check_folder()
        self._pool = ThreadPoolExecutor(self._threads, "request")
        self._slots = threading.BoundedSemaphore(self._threads)
        self._rest = RestServer(self.service, self._pool, self._slots, self._concurrency, self.host, self._allowed_hosts)
        self._socket = self._bind()
        try:
            address = f"{bracketed(self.host)}:{self.grpc_port}"
            self._grpc = GrpcServer(self.service, address, self._slots, self._concurrency)
            self.grpc_port = self._grpc.port
        except OSError:
            self._socket.close()
            raise
        self._apply(self._configs)
        # After TensorFlow has opened its files.
        limits = replace(self.service.limits, connections=connections_that_fit(self.service.limits.connections))
        options: dict[str, Any] = {
            "log_config": None, "access_log": False, "lifespan": "off", "server_header": False, "ws": "none",
            "proxy_headers": False, "timeout_keep_alive": limits.idle_seconds,
        }  # fmt: skip
        self._http = HttpServer(uvicorn.Config(self._rest.app, **options), self._socket, limits)
        # Outside the main thread uvicorn leaves the signals alone: they are the caller's.
        self._http_thread = threading.Thread(target=self._http.run, name="rest", daemon=True)
        self._http_thread.start()
        self._grpc.start()
        self.service.unseen.thread.start()
        while not self._http.started:
            if not self._http_thread.is_alive():
                raise OSError(f"REST cannot listen on {self.host}:{self.port}.")
            time.sleep(0.005)
        self._watch_thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._watch_thread.start()

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        # With the protocol named, asyncio sets TCP_NODELAY on what it accepts; without, each answer waits 40 ms for an ACK.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((self.host, self.port))
        except OSError as error:
            listening.close()
            why = f"{error.strerror}. Give another with --port, 0 for any."
            raise OSError(f"REST cannot listen on {self.host}:{self.port}: {why}") from error
        self.port = listening.getsockname()[1]
        return listening

    def stop(self, grace: float = 10.0) -> None:
        """Take no more requests, answer those that run, for which it waits at most `grace` seconds, and go."""
        self._rest.draining = True
        self._stopping.set()
        self.service.unseen.stopped.set()
        self._http.config.timeout_graceful_shutdown = max(1, int(grace))
        self._http.should_exit = True
        closing = self._grpc.stop(grace)
        self._http_thread.join(grace + 5)
        closing.wait(grace + 5)
        self._watch_thread.join(grace)
        for model in self.service.models.values():
            model.close(grace)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._grpc.close()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _watch(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            try:
                self._reread_config()
                for model in list(self.service.models.values()):
                    if not self._stopping.is_set():
                        model.poll()
            except Exception:
                log.exception("looking at the folders failed; the next look is in %g s", self._poll_seconds)

    def _modified(self) -> tuple[int, int] | None:
        try:
            stat = None if self._config_file is None else self._config_file.stat()
        except OSError:
            stat = None
        return stat and (stat.st_mtime_ns, stat.st_size)

    def _reread_config(self) -> None:
        """Adopt a changed configuration. An invalid one changes nothing, and is read again each time."""
        now = self._modified()
        if self._config_file is None or now == self._config_time:
            return
        try:
            configs = read_config(self._config_file)
            for config in configs:
                config.check_folder()
                self._check_labels(config)
        except (OSError, ValueError) as error:
            if str(error) != self._refused:
                log.error("the configuration is not taken over: %s", error)
            self._refused = str(error)
            return
        self._config_time, self._refused = now, ""
        self._apply(configs)
        log.info("configuration %s is taken over", self._config_file)

    def _check_labels(self, config: ModelConfig) -> None:
        """Refuse an edit that moves a label to a version that is not available, as TensorFlow Serving does."""
        known = self.service.models.get(config.name)
        if known is None:
            return
        for label, number in config.labels.items():
            if known.config.labels.get(label, number) != number and number not in known.available:
                fault = f"label {label!r} of model {config.name!r} moves to version {number}, which is not available"
                fix = "list the version first, wait until it is AVAILABLE, then move the label in an edit of its own."
                raise ValueError(f"{fault}; {fix}")

    def _apply(self, configs: Sequence[ModelConfig]) -> None:
        """Serve these models: known ones keep their versions, gone ones are closed when they are idle."""
        models = {}
        for config in configs:
            known = self.service.models.get(config.name)
            if known is not None and known.config.base_path == config.base_path:
                known.config = config
                models[config.name] = known
            else:
                models[config.name] = ServedModel(config, self._tensorflow_threads)
        gone = [model for name, model in self.service.models.items() if models.get(name) is not model]
        for model in models.values():
            model.poll()
        self.service.models = models
        for model in gone:
            model.close(60.0)


def bracketed(host: str) -> str:
    """A host as it stands before a port.

    Example:

    >>> bracketed("127.0.0.1"), bracketed("::1")
    ('127.0.0.1', '[::1]')
    """
    return f"[{host}]" if ":" in host else host
