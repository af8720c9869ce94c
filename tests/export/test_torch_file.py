"""State_dicts in files: what was written comes back, and what is no state_dict is named."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from keras_dlrm.export import torch_file

STATE = {"top_l.0.weight": np.arange(6, dtype="float32").reshape(2, 3), "emb_l.0.weight": np.ones((4, 3), "float32")}


@pytest.mark.parametrize("ending", ["pt", "pth", "bin", "npz"])
def test_arrays_come_back_in_their_order(tmp_path: Path, ending: str) -> None:
    if ending != "npz":
        pytest.importorskip("torch")
    path = tmp_path / f"weights.{ending}"
    torch_file.save(STATE, path)
    back = torch_file.load(path)
    assert list(back) == list(STATE)
    for key, value in STATE.items():
        np.testing.assert_array_equal(np.asarray(back[key]), value)
    with pytest.raises(FileExistsError, match="weights.*exists.*overwrite"):
        torch_file.save(STATE, path)
    torch_file.save({}, path, overwrite=True)
    assert list(torch_file.load(path)) == [] and len(list(tmp_path.iterdir())) == 1


class Evil:
    """Would write a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    touched = tmp_path / "touched"
    torch.save({"a": Evil(touched)}, tmp_path / "evil.pt")
    (tmp_path / "evil.bin").write_bytes(pickle.dumps(Evil(touched)))
    np.savez(tmp_path / "evil.npz", a=np.array([Evil(touched)], object))
    for name in ("evil.pt", "evil.bin", "evil.npz"):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            torch_file.load(tmp_path / name)
    assert not touched.exists()


@pytest.mark.neutral
def test_numpy_numbers_beside_the_weights_are_read_and_other_things_are_named(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    numbers = [kind(value) for kind in (np.float64, np.float32, np.float16, np.int64, np.uint8, np.bool_) for value in (0, 1)]
    checkpoint = {"epoch": 1, "state_dict": {"a": torch.ones(2)}, "test_acc": np.float64(0.7871), "every": numbers}
    for zipped in (True, False):
        torch.save(checkpoint, tmp_path / "dlrm.pt", _use_new_zipfile_serialization=zipped)
        if not zipped:  # as NumPy 1 names them
            path = tmp_path / "dlrm.pt"
            path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
        found = torch_file.load(tmp_path / "dlrm.pt")
        assert found["test_acc"] == 0.7871 and found["every"] == numbers
        assert [type(number) for number in found["every"]] == [type(number) for number in numbers]
    for value, words in (
        (np.array([{}], object), r"holds numpy\._core.multiarray\._reconstruct besides tensors"),
        (np.str_("text"), "dtype U4, which is not a number"),
        (Evil(tmp_path / "touched"), "besides tensors, which reading would run or make"),
    ):
        torch.save({**checkpoint, "value": value}, tmp_path / "other.pt")
        with pytest.raises(ValueError, match=rf"other.pt cannot be read as a state_dict \(.*{words}"):
            torch_file.load(tmp_path / "other.pt")
    assert not (tmp_path / "touched").exists()


def test_other_files_are_named(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("torn.pt", "torn.npz"):
        (tmp_path / name).write_bytes(b"PK\x03\x04\xff\xfe")
    for name, error, words in (
        ("list.pt", ValueError, "list.pt holds a list"),
        ("torn.pt", ValueError, "torn.pt cannot be read as a state_dict"),
        ("torn.npz", ValueError, "torn.npz cannot be read as arrays"),
        ("none.pt", FileNotFoundError, "no file at .*none.pt"),
        ("weights.safetensors", ValueError, "ending says no format; use .pt"),
    ):
        with pytest.raises(error, match=words):
            torch_file.load(tmp_path / name)
