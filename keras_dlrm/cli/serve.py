"""Command `serve`: the local stand-in for TensorFlow Serving."""

import json
import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli import options as shared
from keras_dlrm.serving.limits import Limits
from keras_dlrm.support.installs import install


@click.command(epilog="""\b
Examples:
  keras-dlrm serve served/clicks
  keras-dlrm serve served/clicks --label stable=1 --label canary=2
  keras-dlrm serve --config savedmodel/models.config --port 8501 --grpc-port 8500
\b
Then:
  curl localhost:8501/v1/models/clicks
  open http://localhost:8501 for a page that predicts and explains
""")
@click.argument("folder", type=shared.PathArgument, required=False)
@click.option("--config", type=shared.PathArgument, help="A models.config, as TensorFlow Serving takes it; watched for changes.")
@click.option("--name", help="Name of the model; by default that of the folder.")
@click.option("--label", "labels", multiple=True, metavar="LABEL=VERSION",
              help="A name for a version; all versions are loaded then. May be repeated.")  # fmt: skip
@click.option("--all-versions", is_flag=True, help="Load every version, not only the highest.")
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", default=8501, help="Port of REST and the page; 0 chooses a free one.")
@click.option("--grpc-port", default=8500, help="Port of gRPC; 0 chooses a free one.")
@click.option("--threads", default=8, type=click.IntRange(1), help="Requests that run at the same time.")
@click.option("--queue", default=256, type=click.IntRange(0), help="Requests that may wait.")
@click.option("--max-request-bytes", "max_bytes", default=8 * 2**20, type=click.IntRange(1024), help="Larger requests are refused.")
@click.option("--poll-seconds", default=1.0, type=click.FloatRange(0.05), help="Interval at which the folder is checked.")
@click.option("--grace-seconds", default=10.0, type=click.FloatRange(0), help="Maximum time for running requests after SIGTERM.")
@click.option("--request-seconds", default=Limits.request_seconds, type=click.FloatRange(0.1),
              help="Maximum time for a client to send a request.")  # fmt: skip
@click.option("--max-connections", "connections", default=Limits.connections, type=click.IntRange(4),
              help="Open connections of REST, and of gRPC.")  # fmt: skip
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME",
              help="A name under which a reverse proxy serves the page. May be repeated.")  # fmt: skip
@click.option("--tensorflow-threads", default=0, show_default=False, type=click.IntRange(0),
              help="TensorFlow's threads; its choice by default.")  # fmt: skip
@shared.json_option
def command(
    folder: Path | None, config: Path | None, name: str | None, labels: tuple[str, ...], all_versions: bool, host: str,
    grace_seconds: float, request_seconds: float, connections: int, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """A local stand-in for TensorFlow Serving, for development and tests, not for production.

    It serves the SavedModel versions of FOLDER (FOLDER/1, FOLDER/2 …) by TensorFlow Serving's REST and gRPC contract,
    takes up new versions as they appear, and shows a page that predicts and explains. SIGTERM or SIGINT ends it, with exit
    code 0, when the running requests are answered; a second one ends it at once.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if (folder is None) == (config is None):
        raise click.UsageError("give either the FOLDER of the versions or --config.")
    if config is not None and (name or labels or all_versions):
        raise click.UsageError("--name, --label and --all-versions go with FOLDER; --config says these itself.")
    numbers = _numbers(labels)
    try:
        from keras_dlrm.serving.log_lines import log_to_stderr
        from keras_dlrm.serving.server import Server, bracketed
        from keras_dlrm.serving.versions.config import ModelConfig
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        fix = install(missing) or "pip install 'keras-dlrm[serving]'"
        raise ImportError(f"keras-dlrm serve needs {missing}, which is not installed: {fix}.") from error
    log_to_stderr()
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns that its loader of sessions is an old one
    logging.getLogger("grpc._common").setLevel(logging.CRITICAL)  # a traceback for each request that is not a message
    models: Any = config
    if folder is not None:
        latest = 0 if all_versions or numbers else 1
        models = [ModelConfig(name or folder.resolve().name, folder, latest, labels=numbers)]
    server = Server(models, host, limits=Limits(request_seconds=request_seconds, connections=connections), **options)
    server.start()
    stop = threading.Event()

    def asked(number: int, _: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)
    served = {n: sorted(model.available) for n, model in server.service.models.items()}
    logging.getLogger("keras_dlrm.serving").info(
        "stand-in for TensorFlow Serving (development and tests only): REST and page http://%s:%d, gRPC %s:%d, serving %s",
        bracketed(host), server.port, bracketed(host), server.grpc_port, served,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps({"host": host, "port": server.port, "grpc_port": server.grpc_port, "models": served}))
    stop.wait()
    logging.getLogger("keras_dlrm.serving").info("stopping: running requests get up to %g s", grace_seconds)
    server.stop(grace_seconds)


def _numbers(labels: tuple[str, ...]) -> dict[str, int]:
    versions = {}
    for text in labels:
        label, _, number = text.partition("=")
        if not label or not (number.isascii() and number.isdecimal()):
            raise click.UsageError(f"--label {text!r} must be LABEL=VERSION, such as stable=1.")
        versions[label] = int(number)
    return versions
