"""One pair of versions and one server for all tests that do not change them."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import keras
import pytest

NEEDED = ("grpc", "tensorflow_serving", "starlette", "uvicorn", "orjson", "prometheus_client")
_MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
if _MISSING:
    pytest.skip(f"needs the extra 'serving': {_MISSING} are not installed", allow_module_level=True)


def pytest_collection_modifyitems(items):
    """The server runs no Keras: it is tested once, in the lane of TensorFlow; what a backend exports, in each."""
    if keras.backend.backend() == "tensorflow":
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and "every_backend" not in item.keywords:
            item.add_marker(pytest.mark.skip(reason="the server knows no backend: it is tested in the lane of TensorFlow"))


@pytest.fixture(scope="session")
def templates(tmp_path_factory):
    """Two versions to copy from: the same model with bias 0 and 1."""
    from saved_models import write_version

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
    """Versions 1 and 2 of `clicks`, labelled stable and canary."""
    from saved_models import serving

    folder = tmp_path_factory.mktemp("served") / "clicks"
    for number, path in templates.items():
        shutil.copytree(path, folder / str(number))
    log = tmp_path_factory.mktemp("log") / "server.log"
    with serving(log, folder, "--label", "stable=1", "--label", "canary=2") as running:
        yield running
