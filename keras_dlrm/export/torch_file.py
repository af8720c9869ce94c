"""Files of state_dicts: torch's `.pt` and `.pth`, NumPy's `.npz`."""

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.files.durable import check_file, whole

ENDINGS = ".pt, .pth, .bin or .npz"
_FIX = "write it with torch.save(model.state_dict(), path)"


def load(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """A state_dict, or the checkpoint that holds it.

    Torch's files are read with `weights_only=True`: nothing in them is run. NumPy's numbers may stand next to the weights, such as
    the accuracies in checkpoints of the reference's script.

    Args:
        path: The file.

    Returns:
        Tensors or arrays by key, in the order of the file.

    Raises:
        FileNotFoundError: no such file.
        ImportError: a file of torch's, and torch is not installed.
        ValueError: it cannot be read, or holds something else.

    Example:

    >>> save({"top_l.0.bias": np.ones(3, "float32")}, "weights.npz")
    >>> load("weights.npz")["top_l.0.bias"].tolist()
    [1.0, 1.0, 1.0]
    """
    path = Path(path)
    kind = _kind(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}; give a state_dict ({ENDINGS}).")
    if kind == "npz":
        try:
            # Opened here: NumPy leaves a file that is not a zip open.
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (ValueError, OSError, zipfile.BadZipFile, AttributeError) as error:
            raise ValueError(f"{path} cannot be read as arrays ({error}); write it with np.savez.") from error
    torch = _torch(path)
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, as the file may hold anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign:
            reason = f"it holds {foreign[1]} besides tensors, which reading would run or make, so it is not read"
        raise ValueError(f"{path} cannot be read as a state_dict ({reason}); {_FIX}.") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}; {_FIX}.")
    return state


class _Dtype:
    """Dtype of a pickled NumPy number, as a file has it; its own unpickling is not used."""

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        if not re.fullmatch(r"[fiu][1248]|b1", code):
            raise ValueError(f"a NumPy value of dtype {code}, which is not a number")
        self.order, self.code = "<", code

    def __setstate__(self, state: Any) -> None:
        if state[1] == ">":
            self.order = ">"


def _number(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, np.dtype(dtype.order + dtype.code))[0]


# The names that pickled NumPy numbers have, of NumPy 2 and NumPy 1, and what is called in their place.
_NUMBERS = [(_Dtype, "numpy.dtype"), (_number, "numpy._core.multiarray.scalar"), (_number, "numpy.core.multiarray.scalar")]


def save(state: Mapping[str, np.ndarray], path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write a state_dict: complete or absent.

    Args:
        state: Arrays by key.
        path: File to write.
        overwrite: Whether a file there may be replaced.

    Raises:
        FileExistsError: there is one.
        ImportError: a file of torch's, and torch is not installed.
        ValueError: an unknown ending.
    """
    path = Path(path)
    kind = _kind(path)
    check_file(path, overwrite)
    with whole(path) as written, open(written, "wb") as file:
        if kind == "npz":
            arrays: dict[str, Any] = dict(state)
            np.savez(file, **arrays)
        else:
            torch = _torch(path)
            torch.save({key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in state.items()}, file)


def _kind(path: Path) -> str:
    ending = path.suffix.lower()
    if ending not in (".pt", ".pth", ".bin", ".npz"):
        raise ValueError(f"{path}: the ending says no format; use {ENDINGS}.")
    return "npz" if ending == ".npz" else "torch"


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"{path} needs torch: pip install 'keras-dlrm[torch]', or use .npz.") from error
    return torch
