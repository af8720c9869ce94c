"""Conditions of every test: one backend (KERAS_BACKEND), the CPU, fixed seeds, warnings as errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

# Before a framework is imported: quiet logs, no accelerator, and one thread a worker: threads that wait for their share of a
# core that others use cost torch's lane a quarter of its time, TensorFlow's a seventh.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
if os.environ.get("KERAS_DLRM_TEST_GPU", "0") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")  # one may wait in an operation, such as a request that is held
os.environ.setdefault("MPLBACKEND", "agg")

# Programs that tests start import nothing optional; nor does the process of the tests, whose programs find that by its path.
LEAN = str(Path(__file__).parent / "helpers" / "lean")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [LEAN, os.environ.get("PYTHONPATH")]))
sys.path.append(LEAN)

# What JAX compiled once, in any test or run, is not compiled again: half of its lane's time and more.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Small programs that run a few times cost more to optimize than to run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# A third of JAX's lane was spent in this part of the compiler.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import helpers.lean.sitecustomize  # noqa: E402, F401
import hypothesis  # noqa: E402
import pytest  # noqa: E402

# Compiling dominates a first call, so there is no deadline; the examples are the same in every run.
hypothesis.settings.register_profile("keras_dlrm", deadline=None, max_examples=25, derandomize=True, database=None)
hypothesis.settings.load_profile("keras_dlrm")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with slow tests first, for workers to share what is left; those marked soak are left out, unless `-m` names the marker.

    Documents are the slowest: behind the others they would keep one worker busy for minutes after the rest.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, item.path.name != "test_docs.py"))
    if "soak" in config.option.markexpr:
        return
    soak = [item for item in items if item.get_closest_marker("soak")]
    if soak:
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if not item.get_closest_marker("soak")]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of data sets and golden vectors that cannot be part of the repository; the test is skipped without it."""
    folder = Path(os.environ.get("KERAS_DLRM_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs data that the repository may not hold: {folder} is absent; set KERAS_DLRM_SHARED to it")
    return folder


@pytest.fixture(autouse=True)
def fresh_keras() -> None:
    """A clean Keras session and the same seeds for each test, whatever ran before."""
    import keras

    # Freeing memory is a full garbage collection, half a second each: a test that needs one asks for it.
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(1234)


def _preloaded(backend: str, folder: Path, **others: str) -> AbstractContextManager[Path]:
    from helpers import preloaded
    from helpers.children import environment

    return preloaded.commands(folder, environment(KERAS_BACKEND=backend), others)


@pytest.fixture(scope="session")
def tensorflow_programs(tmp_path_factory) -> Iterator[Path]:
    """Folder of a `python` and a `keras-dlrm` that begin with Keras imported on TensorFlow: see helpers/preloaded.py."""
    with _preloaded("tensorflow", tmp_path_factory.mktemp("tensorflow_programs")) as folder:
        yield folder


def _programs(backend: str) -> Any:
    """Fixture of the same on another backend; what they start on TensorFlow, such as exports, has that imported, too."""

    @pytest.fixture(scope="session", name=f"{backend}_programs")
    def programs_of(tmp_path_factory, tensorflow_programs) -> Iterator[Path]:
        others = {"tensorflow": str(tensorflow_programs / "python")}
        with _preloaded(backend, tmp_path_factory.mktemp(f"{backend}_programs"), **others) as folder:
            yield folder

    return programs_of


jax_programs, torch_programs = _programs("jax"), _programs("torch")


@pytest.fixture(scope="session")
def programs(request) -> Path:
    """The same on this backend."""
    import keras

    return request.getfixturevalue(f"{keras.backend.backend()}_programs")


@pytest.fixture(scope="module")
def quick_exports(tensorflow_programs) -> Iterator[None]:
    """Exports to TensorFlow, each in a process of its own, are spared its imports."""
    from types import SimpleNamespace

    from keras_dlrm.export import elsewhere

    own = SimpleNamespace(executable=str(tensorflow_programs / "python"), path=sys.path, argv=sys.argv)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elsewhere, "sys", own)
        yield
