"""Deltas of published versions: they hold what changed and no more, and a version made of them is the live model."""

import json
import shutil
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from helpers.children import environment
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.embeddings.lookup import is_table
from keras_dlrm.embeddings.quantized import quantize
from keras_dlrm.export import apply, delta, savedmodel, verify
from keras_dlrm.export.saved_model.manifest import structure_of
from keras_dlrm.files.checksums import sealed
from keras_dlrm.files.deltas import Delta, chain
from keras_dlrm.files.durable import workspace
from keras_dlrm.files.inventory import MANIFEST
from keras_dlrm.files.paths import plain_path

ROWS = 3000


def made(**options):
    schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", ROWS), kd.Categorical("b", 50, hotness=2)])
    return kd.models.DLRM(schema, 4, [8, 4], [8, 1], **{"seed": 0, **options})


def trained(model, seed):
    """The rows of table `a` that change; two of them and all kernels do, as do rows 0 of both tables, which unseen ids get."""
    rows = np.random.default_rng(seed).choice(np.arange(1, ROWS), 2, replace=False)
    tables = {name: np.array(table) for name, table in model.embedding_tables().items()}
    tables["a"][rows] += 0.25
    tables["a"][0] += seed
    model.embeddings.set_embedding_tables(tables)
    for variable in model.weights:
        if variable.path.endswith("kernel"):
            variable.assign(variable + 0.125 * seed)
    return sorted([0, *rows.tolist()])


def plain(path):
    return plain_path(path, "*?[]{}\\")


def dense_weights(model):
    return [keras.ops.convert_to_numpy(v.value) for v in model.weights if not is_table(v)]


@pytest.fixture(scope="module", params=["int4"])
def published(request, tmp_path_factory, quick_exports):
    """A model, its base, two deltas and the rows of each, and the version that they make."""
    folder = tmp_path_factory.mktemp("served") / "clicks [1]"  # a name that TensorFlow would take for a pattern
    model = made()
    base = savedmodel(model, folder, tables=request.param, warm_up=False)
    rows = [trained(model, 1)]
    first = delta(model, base)
    rows.append(trained(model, 2))
    second = delta(model, first)
    return model, base, [first, second], rows, apply(second), request.param


slow = suite_on("torch")


@slow
def test_a_delta_holds_the_rows_whose_stored_bytes_changed(published):
    model, base, deltas, rows, _, kind = published
    tables = model.embedding_tables()
    assert [path.name for path in deltas] == ["2.delta", "3.delta"]
    for path, changed in zip(deltas, rows, strict=True):
        assert Delta(path).rows(0).tolist() == changed
    last = Delta(deltas[1])
    for name, array in quantize(tables["a"][rows[1]], kind).arrays.items():
        np.testing.assert_array_equal(last.stored(0, name), array.view(np.uint8))


@slow
def test_a_version_of_base_and_deltas_is_the_live_model_to_the_bit(published):
    import tensorflow as tf

    model, base, deltas, _, version, kind = published
    assert version.name == "3" and verify(version)["state"] == Delta(deltas[1]).state
    reader, before = (tf.train.load_checkpoint(str(plain(path) / "variables" / "variables")) for path in (version, base))
    assert reader.get_variable_to_shape_map() == before.get_variable_to_shape_map()
    for i, value in enumerate(dense_weights(model)):
        np.testing.assert_array_equal(reader.get_tensor(f"weights/{i}/.ATTRIBUTES/VARIABLE_VALUE"), value)
    rows = np.concatenate([model.embedding_tables()[name] for name in ("a", "b")])
    for name, array in quantize(rows, kind).arrays.items():
        got = reader.get_tensor(f"tables/0/{name}/.ATTRIBUTES/VARIABLE_VALUE")
        assert got.tobytes() == array.tobytes()
    assert (version / "saved_model.pb").read_bytes() == (base / "saved_model.pb").read_bytes()
    assert chain(deltas[1]) == [base, *deltas]
    with pytest.raises(FileExistsError, match="it is the version of this delta"):
        apply(deltas[1])


def described(folder, model, **other):
    """The manifest of a version, of a model as it is or with other entries, without the rest of it."""
    version = folder / "1"
    (version / "assets.extra").mkdir(parents=True)
    model.schema.save(version / "assets.extra" / "schema.json")
    tables = {name: {"rows": n, "width": w, "stored_as": "float32"} for name, (n, w) in model.embeddings.table_shapes.items()}
    content = {"tables": tables, "structure": structure_of(model), "signatures": {"serving_default": "packed"}, "user_columns": []}
    (version / MANIFEST).write_text(json.dumps(sealed({**content, **other})))
    return version


OTHER_COLUMNS = kd.Schema(dense=["y"], categorical=[kd.Categorical("a", ROWS), kd.Categorical("b", 50, hotness=2)])
GROWN = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", ROWS + 1), kd.Categorical("b", 50, hotness=2)])


@pytest.mark.parametrize(
    "options, other, message",
    [
        ({"schema": OTHER_COLUMNS}, {}, r"has another schema, of the columns .*'x'.*, where the model has .*'y'"),
        ({"schema": GROWN}, {}, r"has another table 'a': 3,000 rows × 4 as float32, where the model has 3,001 rows × 4 as float32"),
        ({"interaction": "cat"}, {}, "has another structure than the model"),
        ({}, {"pruned_rows": 7}, r"left 7 rows out \(prune\)"),
        ({}, {"retrieval": {"k": 10}}, "has an index of items"),
        ({}, {"structure": None, "tables": {}}, "has another table 'a': none"),
    ],
)
def test_a_base_that_is_not_of_the_model_is_refused(tmp_path, options, other, message):
    version = described(tmp_path, made(), **other)
    schema = options.get("schema", made().schema)
    model = kd.models.DLRM(schema, 4, [8, 4], [8, 1], seed=1, interaction=options.get("interaction", "dot"))
    with pytest.raises(ValueError, match=rf"delta: .*1 {message}.*; write a full version \(kd.export.savedmodel\)"):
        delta(model, version)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_paths_that_are_no_versions_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="give a version that kd.export.savedmodel wrote, or a delta"):
        delta(made(), tmp_path / "1")
    with pytest.raises(ValueError, match="is not called as a version is"):
        delta(made(), tmp_path / "model.keras")
    with pytest.raises(ValueError, match="is not called as a delta is"):
        apply(tmp_path / "1")
    with pytest.raises(FileNotFoundError, match="give a delta that kd.export.delta wrote"):
        apply(tmp_path / "2.delta")


PROGRAM = f"""
import resource, signal, sys
import keras_dlrm as kd
schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("a", {ROWS}), kd.Categorical("b", 50, hotness=2)])
model = kd.models.DLRM(schema, 4, [8, 4], [8, 1], seed=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    kd.export.delta(model, sys.argv[1])
except (OSError, RuntimeError) as error:
    print(error)
"""


def write_elsewhere(python, base, limit):
    command = [python, "-c", PROGRAM, str(base), str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def killed(programs, base, seconds):
    """Kill a process that writes a delta, some time after it began; a delta is there and whole, or absent."""
    process = write_elsewhere(programs / "python", base, 2**30)
    while not list(base.parent.glob(".writing-*/delta/requests.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    for path in base.parent.glob("*.delta"):
        Delta(path)


@slow
def test_a_full_disk_and_a_kill_leave_nothing(published, programs, tmp_path):
    folder = tmp_path / "clicks"
    base = shutil.copytree(published[1], folder / "1")
    full, errors = write_elsewhere(sys.executable, base, 10_000).communicate()  # less than the changed rows take
    assert full.startswith("delta: not written (") and "File too large" in full, (full, errors)
    assert [path.name for path in folder.iterdir()] == ["1"]
    killed(programs, base, seconds=0.0)
    with workspace(folder / "version"):  # as the next one has it
        pass
    assert [path.name for path in folder.iterdir()] == ["1"]


@pytest.mark.soak
@pytest.mark.parametrize("moment", range(20))
def test_a_kill_at_any_moment_leaves_a_delta_that_is_whole_or_absent(published, programs, tmp_path, moment):
    base = shutil.copytree(published[1], tmp_path / "clicks" / "1")
    killed(programs, base, seconds=0.5 * moment)
    with workspace(base.parent / "version"):
        pass
    assert {path.suffix for path in base.parent.iterdir()} <= {"", ".delta"}
