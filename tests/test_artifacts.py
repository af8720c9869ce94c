"""`kd.verify` and the commands that read what others wrote: a flipped bit anywhere is an error that names the file."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import keras_dlrm as kd
from keras_dlrm.artifacts import UNCHECKED
from keras_dlrm.cli import main
from keras_dlrm.data.packed import format as layout
from keras_dlrm.files.checksums import sealed
from keras_dlrm.files.inventory import FORMAT, MANIFEST, VERSION, files_below, inventory
from keras_dlrm.training import run_files
from keras_dlrm.training.experiment import Experiment

pytestmark = pytest.mark.neutral


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One of everything, small."""
    folder = tmp_path_factory.mktemp("written")
    random = np.random.default_rng(0)
    rows = pl.DataFrame({"x": random.random(90), "a": [f"v{i}" for i in random.integers(0, 9, 90)], "click": [0, 1, 1] * 30})
    rows.write_csv(folder / "rows.csv")
    raw = kd.Schema(dense=[kd.Dense("x", "standardize")], categorical=[kd.Categorical("a")], label="click")
    log = kd.data.tables.preprocess(raw, folder / "rows.csv", output=folder / "log", split={"train": 0.9, "test": 0.1})
    log.preprocessor.save(folder / "preprocessor")
    model = kd.models.DLRM(log.schema, 4, bottom_mlp=[4], top_mlp=[4, 1])
    run = folder / "run"
    run.mkdir()
    model.save(run / run_files.MODEL)
    np.save(run / run_files.PREDICTIONS, random.random(9, np.float32))
    Experiment().save(run / run_files.EXPERIMENT)
    files = (run_files.MODEL, run_files.PREDICTIONS, run_files.EXPERIMENT)
    run_files.write_listing(run, run_files.DATA, {"sha256": "0"}, files[-1:])
    run_files.write_listing(run, run_files.RESULT, {"test": {"auc": 0.75}}, (*files, run_files.DATA))
    kd.checkpoint.save(model, folder / "checkpoints", step=1)
    version = folder / "served" / "3"
    (version / "assets.extra").mkdir(parents=True)
    (version / "variables").mkdir()
    (version / "saved_model.pb").write_bytes(random.bytes(300))
    (version / "variables" / "variables.index").write_bytes(random.bytes(200))
    manifest = {"format": FORMAT, "version": VERSION, "files": inventory(version, files_below(version))}
    (version / MANIFEST).write_text(json.dumps(sealed(manifest)))
    kd.export.onnx(model, folder / "onnx" / "model.onnx", external_data=True)
    return folder


KINDS = {
    "log": "packed log",
    "preprocessor": "preprocessor",
    "run": "run",
    "run/model.keras": "model",
    "checkpoints": "checkpoints",
    "checkpoints/step_0000000001": "checkpoints",
    "served": "published model",
    "served/3": "published version",
    "onnx/model.onnx": "ONNX model",
}


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_what_was_written_is_whole(written, name, kind):
    counted = []
    found = kd.verify(written / name, lambda done, total: counted.append((done, total)))
    assert found.kind == kind and counted == sorted(counted) and counted[-1][0] == counted[-1][1] > 0
    assert all(file.check != UNCHECKED for file in found.files)
    names = [file.name for file in found.files]
    if (written / name).is_dir():
        assert names == [n for n in files_below(written / name) if not n.startswith(".")]


def test_a_flipped_bit_in_any_file_is_found_and_named(written, tmp_path):
    random, outcomes = np.random.default_rng(0), Counter()
    for name in ("log", "preprocessor", "run", "checkpoints", "served", "onnx"):
        folder = Path(shutil.copytree(written / name, tmp_path / name))
        target = folder / "model.onnx" if name == "onnx" else folder
        files = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file()]
        for file in 2 * files:
            whole = (folder / file).read_bytes()
            content, bit = bytearray(whole), int(random.integers(8 * len(whole)))
            content[bit // 8] ^= 1 << bit % 8
            (folder / file).write_bytes(content)
            with pytest.raises(ValueError, match=r".") as caught:
                kd.verify(target)
            assert file.name in str(caught.value) or str((folder / file).parent) in str(caught.value), (file, caught)
            outcomes[name] += 1
            (folder / file).write_bytes(whole)
        kd.verify(target)
    assert outcomes.total() >= 40


def test_a_checksum_under_a_damaged_name_is_no_earlier_release(written, tmp_path):
    for name in ("data.json", "result.json"):
        folder = Path(shutil.copytree(written / "run", tmp_path / name))
        (folder / name).write_bytes((folder / name).read_bytes().replace(b'"checksum"', b'"bhecksum"'))
        for read in (kd.verify, lambda folder, name=name: run_files.read_listing(folder, name)):
            with pytest.raises(ValueError, match=rf"{name} is damaged"):
                read(folder)


def test_the_command_says_what_it_checked_in_80_columns(written, capsys):
    os.environ.pop("COLUMNS", None)
    main(["verify", str(written / "log"), "--json"])
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines[1:-1]) <= 80
    assert any("train/dense.npy" in line and "SHA-256" in line for line in lines)
    assert json.loads(lines[-1])["kind"] == "packed log"


def test_the_command_ends_with_2_and_one_sentence(written, tmp_path, capsys):
    shutil.copytree(written / "run", tmp_path / "run")
    model = tmp_path / "run" / "model.keras"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 4
    model.write_bytes(content)
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").touch()
    for arguments, words in (
        (["verify", "run"], "model.keras is damaged"),
        (["verify", "run/model.keras"], "model.keras is damaged, or only a part of it"),
        (["evaluate", "run/model.keras", "--data", str(written / "log")], "model.keras is damaged, or only a part of it"),
        (["verify", "absent"], "absent does not exist"),
        (["verify", "photos"], "photos is not a folder that this package wrote"),
        (["verify", "notes.txt"], "notes.txt is not a file that can be verified"),
    ):
        with pytest.raises(SystemExit) as done:
            main([a if a.startswith(("-", "/")) or i == 0 else str(tmp_path / a) for i, a in enumerate(arguments)])
        said = capsys.readouterr().err.strip().splitlines()
        assert done.value.code == 2 and len(said) == 1 and words in said[0]


def test_an_earlier_version_is_read_and_said_to_have_no_checksums(written, tmp_path, capsys):
    folder = Path(shutil.copytree(written / "log", tmp_path / "log"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({"format": layout.FORMAT, "version": 1, "splits": manifest["splits"]}))
    assert {file.check for file in kd.verify(folder).files} == {UNCHECKED}
    main(["verify", str(folder)])
    assert "files have no checksum" in capsys.readouterr().out


def test_descriptions_are_parsed(tmp_path):
    kd.Schema(dense=["x"]).save(tmp_path / "schema.json")
    Experiment().save(tmp_path / "dlrm.yaml")
    kd.plan(kd.Schema(categorical=[kd.Categorical("a", 9)]), world_size=2).save(tmp_path / "plan.json")
    for name in ("schema.json", "dlrm.yaml", "plan.json"):
        assert kd.verify(tmp_path / name).kind == "description"
    (tmp_path / "plan.json").write_text('{"tables": 3')
    (tmp_path / "schema.json").write_text('{"format": "x"}')
    for name, words in (("plan.json", "is damaged"), ("schema.json", "not a schema, plan or experiment")):
        with pytest.raises(ValueError, match=words):
            kd.verify(tmp_path / name)
