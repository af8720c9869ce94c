"""One pair of versions and one server for all tests that do not change them."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

NEEDED = ("grpc", "tensorflow_serving", "starlette", "uvicorn", "orjson", "prometheus_client")
_MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
if _MISSING:
    pytest.skip(f"needs the extra 'serving': {_MISSING} are not installed", allow_module_level=True)


@pytest.fixture(scope="session")
def templates(tmp_path_factory):
    """Two versions to copy from: the same model with bias 0 and 1."""
    from helpers.saved_models import write_version

    folder = tmp_path_factory.mktemp("templates")
    return {1: write_version(folder / "1", 0.0), 2: write_version(folder / "2", 1.0)}


@pytest.fixture
def publish(templates):
    """Copies a template to `folder/number`, aside first and renamed, as an exporter does."""

    def copy(folder, number, template=1):
        aside = folder / f".writing-{number}"
        shutil.copytree(templates[template], aside)
        return aside.rename(folder / str(number))

    return copy


@pytest.fixture(scope="session")
def server(templates, tmp_path_factory):
    """Versions 1 and 2 of `clicks`, labeled stable and canary."""
    from helpers.saved_models import serving

    folder = tmp_path_factory.mktemp("served") / "clicks"
    for number, path in templates.items():
        shutil.copytree(path, folder / str(number))
    log = tmp_path_factory.mktemp("log") / "server.log"
    with serving(log, folder, "--label", "stable=1", "--label", "canary=2") as running:
        yield running


@pytest.fixture
def serve(caplog):
    """A server in this process, by `Server`'s arguments; stopped at the end of its `with`."""
    from contextlib import contextmanager

    from helpers.saved_models import Running

    from keras_dlrm.serving import ModelConfig, Server

    caplog.set_level("INFO", "keras_dlrm.serving")

    @contextmanager
    def start(models, **options):
        if models.is_dir():
            models = [ModelConfig(options.pop("name", models.name), models)]
        server = Server(models, port=0, grpc_port=0, **{"poll_seconds": 0.05, **options})
        with server:
            running = Running(f"127.0.0.1:{server.port}", f"127.0.0.1:{server.grpc_port}", lambda: caplog.text)
            running.models = list(server.service.models.values())
            yield running

    return start
