"""Large tables and their slots are in huge pages, where the machine has them."""

import mmap
import os
import platform
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_dlrm as kd
from keras_dlrm import backend
from keras_dlrm.embeddings import huge_pages

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ROWS, WIDTH = 300_000, 16

needs_huge_pages = pytest.mark.skipif(
    os.environ.get("KERAS_DLRM_TEST_GPU") == "1"
    or not sys.platform.startswith("linux")
    or not SETTING.exists()
    or "[never]" in SETTING.read_text()
    or tuple(int(n) for n in platform.release().split(".")[:2]) < (6, 1),
    reason="tables are on a GPU, or the kernel has no transparent huge pages, or is set to `never`, or is older than 6.1",
)


def in_huge_pages(address):
    """Bytes in huge pages of the mapping that an address is in."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            low, high = (int(number, 16) for number in first.split("-"))
            inside = low <= address < high
        elif inside and first == "AnonHugePages:":
            found = 1024 * int(line.split()[1])
    return found


def address_of(mapping):
    return np.frombuffer(mapping, "uint8").__array_interface__["data"][0]


def has_room(size):
    """Whether the kernel has so many bytes in huge pages now: memory in use for long has few whole ones left."""
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE) as mapping:
        mapping.madvise(mmap.MADV_HUGEPAGE)
        mapping.write(bytes(size))
        return in_huge_pages(address_of(mapping) + size // 2) > 0.9 * size


def model():
    schema = kd.Schema(categorical=[kd.Categorical("a", ROWS), kd.Categorical("b", ROWS)])
    inputs = keras.Input((2,), dtype="int32")
    collection = kd.layers.EmbeddingCollection(schema, WIDTH, concatenate=True, seed=0)
    built = kd.models.SparseModel(inputs, keras.layers.Dense(1, "sigmoid")(collection(inputs)))
    return built, collection


@needs_huge_pages
def test_tables_and_slots_are_in_huge_pages(monkeypatch):
    asked = {}

    def memory(variable, ask=backend.memory):
        asked[variable.path] = ask(variable)
        return asked[variable.path]

    room = 8 * ROWS * WIDTH * 4  # twice what the table and its slot take
    if not has_room(room):
        pytest.skip("the kernel has no room for huge pages: its free memory is in small pieces")
    monkeypatch.setattr(backend, "memory", memory, raising=False)
    built, collection = model()
    built.compile(kd.optimizers.Adagrad(0.1), "binary_crossentropy")
    ids = np.random.default_rng(0).integers(0, ROWS, (256, 2)).astype("int32")
    built.fit(ids, np.ones((256, 1), "float32"), batch_size=64, verbose=0)
    assert len(asked) == 2, "a table and its slot"
    for path, (address, size) in asked.items():
        assert size == 2 * ROWS * WIDTH * 4
        assert in_huge_pages(address + size // 2) > size // 2 or not has_room(room), f"{path} after training"


def test_rows_are_the_same_in_pages_of_any_size(monkeypatch):
    _, collection = model()
    monkeypatch.setattr(huge_pages, "_page_size", lambda: 0)
    _, other = model()
    for name, rows in collection.embedding_tables().items():
        np.testing.assert_array_equal(other.embedding_tables()[name], rows)


def test_small_tables_and_memory_elsewhere_are_left_alone(monkeypatch):
    calls = []
    monkeypatch.setattr(huge_pages, "_madvise", lambda: lambda *a: calls.append(a) or 0)
    huge_pages.use_huge_pages(keras.Variable(np.zeros((100, WIDTH), "float32")))
    monkeypatch.setattr(backend, "memory", lambda variable: None, raising=False)
    huge_pages.use_huge_pages(keras.Variable(np.zeros((ROWS, WIDTH), "float32")))
    assert not calls


def test_only_whole_pages_of_the_variable_are_named(monkeypatch):
    page, calls = 1 << 21, []
    monkeypatch.setattr(huge_pages, "_page_size", lambda: page)
    monkeypatch.setattr(huge_pages, "_madvise", lambda: lambda *a: calls.append(a) or 0)
    first, size = 5 * page + 64, 70 * page
    monkeypatch.setattr(backend, "memory", lambda variable: (first, size), raising=False)
    huge_pages.use_huge_pages(None)
    assert all(address % page == 0 and length % page == 0 for address, length, _ in calls)
    covered = sorted({(address, length) for address, length, _ in calls})
    assert covered[0][0] == 6 * page and sum(covered[-1]) == 75 * page
    assert all(a + n == b for (a, n), (b, _) in zip(covered, covered[1:], strict=False))
