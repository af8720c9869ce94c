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
