"""SavedModels: what stands in them, and that they load without Keras and without this package."""

import json
import keyword
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers.suite import suite_on
from hypothesis import given
from hypothesis import strategies as st

from keras_dlrm.export import savedmodel, verify
from keras_dlrm.export.signatures import input_names
from keras_dlrm.files.paths import plain_path
from keras_dlrm.models import DLRM, DCNv2
from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.serving.versions.saved_model import SavedModel

tf = pytest.importorskip("tensorflow")

pytestmark = pytest.mark.usefixtures("quick_exports")

SCHEMA = Schema(
    dense=["I1", "I2"], categorical=[Categorical("C1", 7, oov=3), Categorical("tags", 5, hotness=2, combiner="mean", oov=None)]
)
WEIGHTED = Schema(categorical=[Categorical("C1", 20_000, hotness=2), Categorical("C2", 5)], weighted=True)

# Runs where neither keras nor keras_dlrm can be imported; prints predictions and signatures.
LOADER = """
import json, sys
sys.modules["keras"] = sys.modules["keras_dlrm"] = sys.modules["tf_keras"] = None
import numpy as np, tensorflow as tf
out = []
for path, batches in json.load(open(sys.argv[1])):
    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]
    inputs = {k: [s.dtype.name, s.shape.as_list()] for k, s in serve.structured_input_signature[1].items()}
    outputs = {k: [s.dtype.name, s.shape.as_list()] for k, s in serve.structured_outputs.items()}
    rows = []
    for batch in batches:
        fed = {k: tf.constant(np.array(v, s[0]).reshape([-1, s[1][1]])) for (k, v), s in
               zip(sorted(batch.items()), [inputs[k] for k in sorted(batch)])}
        rows.append(serve(**fed)["probability"].numpy().tolist())
    out.append({"inputs": inputs, "outputs": outputs, "rows": rows, "signatures": list(loaded.signatures)})
print(json.dumps(out))
"""


def batch_of(schema, rows, seed=0):
    rng = np.random.default_rng(seed)
    batch = {}
    if schema.dense:
        batch["dense"] = rng.normal(size=(rows, schema.n_dense)).astype("float32")
    sizes = np.repeat([c.vocabulary_size for c in schema.categorical], [c.hotness for c in schema.categorical])
    batch["sparse"] = rng.integers(-1, sizes, size=(rows, schema.width))
    if schema.weighted:
        batch["weights"] = rng.uniform(0.1, 2, size=(rows, schema.width)).astype("float32")
    return batch


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Two models, exported and loaded by a bare TensorFlow in another process."""
    folder = tmp_path_factory.mktemp("export")
    keras.utils.set_random_seed(0)
    models = {
        "dlrm": DLRM(SCHEMA, 4, [4], [3, 1], dropout=0.2, batch_norm=True, seed=0),
        "dcn": DCNv2(WEIGHTED, 8, 1, [4], seed=0),
    }
    out, jobs = {}, []
    far = batch_of(SCHEMA, 3)
    far["dense"][1, 0] = np.nan
    far["sparse"] = np.array([[7, 5, -2], [2**40, 2**32 + 1, -(2**40)], [-9, 2**31, 4]])
    for name, model in models.items():
        path = savedmodel(model, folder / name)
        batches = [batch_of(model.schema, rows) for rows in (0, 1, 7)] + ([far] if name == "dlrm" else [])
        out[name] = {"model": model, "path": path, "batches": batches}
        jobs.append([str(path), [{k: v.tolist() for k, v in batch.items()} for batch in batches]])
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run([sys.executable, "-c", LOADER, str(folder / "jobs.json")], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    for found, entry in zip(json.loads(done.stdout.splitlines()[-1]), out.values(), strict=True):
        entry.update(found)
    return out


@suite_on("tensorflow")
def test_signatures_have_exact_names_and_dtypes(exported):
    assert sorted(exported["dlrm"]["signatures"]) == ["classify", "columns", "packed", "regress", "serving_default"]
    assert exported["dlrm"]["inputs"] == {"dense": ["float32", [None, 2]], "sparse": ["int64", [None, 3]]}
    assert exported["dcn"]["inputs"] == {"sparse": ["int64", [None, 3]], "weights": ["float32", [None, 3]]}
    for entry in exported.values():
        assert entry["outputs"] == {"probability": ["float32", [None, 1]]}


@pytest.mark.parametrize("name", ["dlrm", "dcn"])
@suite_on("tensorflow")
def test_probabilities_equal_predict_at_any_batch_size(exported, name):
    entry = exported[name]
    assert entry["rows"][0] == []
    for batch, rows in list(zip(entry["batches"], entry["rows"], strict=True))[1:3]:
        expected = entry["model"].predict(batch, verbose=0)
        np.testing.assert_allclose(np.array(rows), expected, rtol=1e-5, atol=1e-6)


@suite_on("tensorflow")
def test_ids_out_of_range_take_the_oov_row_or_contribute_nothing(exported):
    entry = exported["dlrm"]
    batch = dict(entry["batches"][3])
    batch["sparse"] = np.array([[3, -1, -1], [3, -1, -1], [3, -1, 4]])
    expected = entry["model"].predict(batch, verbose=0)
    np.testing.assert_allclose(np.array(entry["rows"][3]), expected, rtol=1e-5, atol=1e-6)


@suite_on("tensorflow")
def test_a_dense_feature_of_nan_gives_no_probability(exported):
    assert np.isnan(np.array(exported["dlrm"]["rows"][3])[:, 0]).tolist() == [False, True, False]


@suite_on("tensorflow")
def test_weights_are_stored_once(exported):
    entry = exported["dcn"]
    stored = sum(p.stat().st_size for p in (entry["path"] / "variables").iterdir())
    assert stored <= 1.02 * 4 * entry["model"].count_params() + 10_000
    whole = sum(p.stat().st_size for p in entry["path"].rglob("*") if p.is_file())
    assert whole <= stored + 200_000


@suite_on("tensorflow")
def test_the_schema_lies_beside_the_model(exported):
    assert Schema.load(exported["dlrm"]["path"] / "assets.extra" / "schema.json") == SCHEMA


def tiny(**options):
    return DLRM(Schema(categorical=[Categorical("a", 3), Categorical("b", 2)]), 2, None, [1], seed=0, **options)


@pytest.fixture
def quick(monkeypatch):
    """Writing stubbed out, for the tests of folders: what it wrote is tested above."""
    import keras_dlrm.export.saved_model.savedmodel  # noqa: F401

    module = sys.modules["keras_dlrm.export.saved_model.savedmodel"]
    monkeypatch.setattr(
        module, "_write", lambda model, preprocessor, stored, stages, path, job: (path / "assets.extra").mkdir(parents=True)
    )
    return module


@pytest.mark.neutral
def test_versions_count_upwards_from_the_highest(tmp_path, quick):
    assert savedmodel(tiny(), tmp_path).name == "1"
    assert savedmodel(tiny(), tmp_path, version=7).name == "7"
    (tmp_path / "notes").mkdir()
    assert savedmodel(tiny(), str(tmp_path)) == tmp_path / "8"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "7", "8", "notes"]


@pytest.mark.neutral
def test_an_existing_version_is_refused(tmp_path, quick):
    savedmodel(tiny(), tmp_path, version=3)
    with pytest.raises(FileExistsError, match=r"3 exists.*another version"):
        savedmodel(tiny(), tmp_path, version=3)


@pytest.mark.neutral
def test_a_number_that_another_export_took_meanwhile_gives_the_next_one_or_an_error(tmp_path, quick, monkeypatch):
    def slow(model, preprocessor, stored, stages, path, job):
        (path / "assets.extra").mkdir(parents=True)
        (tmp_path / "1" / "assets").mkdir(parents=True)

    monkeypatch.setattr(quick, "_write", slow)
    assert savedmodel(tiny(), tmp_path).name == "2"
    (tmp_path / "1" / "assets").rmdir()
    (tmp_path / "1").rmdir()
    with pytest.raises(FileExistsError, match="appeared while this version was written"):
        savedmodel(tiny(), tmp_path, version=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


@pytest.mark.neutral
def test_names_that_are_no_version_do_not_count(tmp_path, quick):
    for name in ("²", "٣", "9" * 30, "2.0"):
        (tmp_path / name).mkdir()
    assert savedmodel(tiny(), tmp_path).name == "1"


@pytest.mark.neutral
def test_a_file_is_no_folder_of_versions(tmp_path):
    (tmp_path / "served").touch()
    with pytest.raises(NotADirectoryError, match="served is a file; give the folder"):
        savedmodel(tiny(), tmp_path / "served")


@pytest.mark.neutral
@pytest.mark.parametrize(("value", "error"), [(float("nan"), ValueError), ("good", TypeError), (None, TypeError)])
def test_metrics_that_are_no_numbers_are_refused_before_anything_is_written(tmp_path, value, error):
    with pytest.raises(error, match=r"metrics\['auc'\]"):
        savedmodel(tiny(), tmp_path / "new", metrics={"auc": value})
    assert not (tmp_path / "new").exists()


@pytest.mark.neutral
def test_metrics_may_be_numpys_numbers(tmp_path, quick):
    path = savedmodel(tiny(), tmp_path, metrics={"auc": np.float32(0.5)})
    assert json.loads((path / "assets.extra" / "manifest.json").read_text())["metrics"] == {"auc": 0.5}


@suite_on("tensorflow")
def test_weights_of_other_rows_than_the_ids_are_refused(exported):
    entry = exported["dcn"]
    loaded = tf.saved_model.load(str(entry["path"]))
    batch = {key: tf.constant(values) for key, values in entry["batches"][2].items()}
    for key in batch:
        with pytest.raises(tf.errors.InvalidArgumentError):
            loaded.signatures["serving_default"](**{**batch, key: batch[key][:1]})


@pytest.mark.neutral
@given(st.lists(st.text("aAbB_-. 用é\n7😀", min_size=1, max_size=4), unique=True, max_size=12))
def test_every_column_has_an_input_of_its_own(names):
    found = input_names(names)
    assert list(found) == names == list(input_names(names))
    assert len({name.lower() for name in found.values()}) == len(names)
    for name, taken in found.items():
        assert re.fullmatch("[A-Za-z][A-Za-z0-9_]*", taken)
        alike = [other for other in names if other.lower() == name.lower()]
        if re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name) and alike[0] == name and not keyword.iskeyword(name):
            assert taken == name  # what can stay as it is does


# No pattern, and nothing that a program would take for one.
ODD = "runs [best]* ?{a}\\1\nnext/模型 %20$HOME"


@pytest.mark.slow
@pytest.mark.neutral
def test_columns_may_have_any_names_and_folders_too(tmp_path):
    names = {
        "self": "arg_self", "Price": "Price", "price": "price_2", "class": "arg_class", "name": "name", "用户": "arg___",
        "商品": "arg____2", "a.b/c d": "a_b_c_d", "a b.c/d": "a_b_c_d_2", "\N{GRINNING FACE}": "arg__", "7": "arg_7",
        "n" * 400: "n" * 400,
        "weights": "weights", "inputs": "inputs", "_private": "arg__private",
    }  # fmt: skip
    sparse = list(names)[3:]
    schema = Schema(dense=list(names)[:3], categorical=[Categorical(name, 3, hotness=1 + i % 2) for i, name in enumerate(sparse)])
    model = DLRM(schema, 2, [2], [1], seed=0)
    path = savedmodel(model, tmp_path / ODD, user_columns=["class", "商品", "Price"])
    manifest = verify(path)
    assert manifest["inputs"] == names
    served = SavedModel(path)
    assert served.signatures["columns"].inputs.keys() == set(names.values())
    served.close()
    loaded = tf.saved_model.load(str(plain_path(path, "[*?{\\")))
    batch = {
        "dense": np.arange(6, dtype=np.float32).reshape(2, 3),
        "sparse": np.random.default_rng(0).integers(-1, 3, (2, schema.width)),
    }
    asked = {names[name]: batch["dense"][:, i] for i, name in enumerate(schema.dense_names)}
    for column, start in zip(schema.categorical, schema.offsets, strict=True):
        ids = batch["sparse"][:, start : start + column.hotness]
        asked[names[column.name]] = ids if column.hotness > 1 else ids[:, 0]
    answer = loaded.signatures["columns"](**{name: tf.constant(values) for name, values in asked.items()})
    np.testing.assert_allclose(answer["probability"], model.predict(batch, verbose=0), atol=1e-6)


@pytest.mark.neutral
@pytest.mark.parametrize("version", [-1, True, 1.5, "2", 2**63])
def test_a_bad_version_is_refused_and_makes_nothing(tmp_path, version):
    with pytest.raises(ValueError, match="version="):
        savedmodel(tiny(), tmp_path / "new", version=version)
    assert not (tmp_path / "new").exists()


@pytest.mark.neutral
def test_a_failure_leaves_nothing_behind(tmp_path, quick, monkeypatch):
    def fail(model, preprocessor, stored, stages, path, job):
        path.mkdir()
        (path / "half").write_text("written")
        raise RuntimeError("disk full")

    monkeypatch.setattr(quick, "_write", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        savedmodel(tiny(), tmp_path)
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, signal, sys
from pathlib import Path
import keras_dlrm as kd
schema = kd.Schema(categorical=[kd.Categorical("a", 20_000), kd.Categorical("b", 10)])
model = kd.models.DLRM(schema, 16, None, [1], seed=0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    kd.export.savedmodel(model, sys.argv[1], warm_up=False)
except RuntimeError as error:
    print(error)
"""


@pytest.mark.neutral
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no limits of a file's size")
def test_a_disk_that_takes_no_more_is_one_sentence_and_leaves_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True)
    (line,) = done.stdout.splitlines()
    assert line.startswith("savedmodel: not written (") and "File too large" in line, line
    assert line.endswith("see that the folder can be written to and has room.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.neutral
def test_other_models_are_refused(tmp_path):
    with pytest.raises(TypeError, match="Sequential"):
        savedmodel(keras.Sequential([keras.layers.Dense(1)]), tmp_path)


@suite_on("tensorflow")
def test_a_mixed_precision_model_exports(tmp_path):
    """Backends round bfloat16 each in its own way: TensorFlow's export of it is not JAX's model to five digits."""
    model = DLRM(SCHEMA, 16, [64, 16], [64, 32, 1], seed=5, dtype="mixed_bfloat16")
    assert savedmodel(model, tmp_path).name == "1"
