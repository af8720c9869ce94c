"""Arrays of a PyTorch state_dict by key, read so that nothing is left over."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# What DataParallel, DistributedDataParallel, torch.compile and TorchRec's wrappers put in front of a model's keys …
_LEADING = re.compile(r"^((module|model|_orig_mod|_dmp_wrapped_module)\.)+")
# … or between them, where a part of the model is wrapped.
_INNER = re.compile(r"(?<=\.)(module|_orig_mod)\.")
_CHECKPOINTS = ("state_dict", "model_state_dict", "model")


class StateDict:
    """A state_dict whose keys are taken one by one; `who` and the possible `keys` are for errors.

    The source is a mapping of keys to torch tensors or arrays; a checkpoint that holds it under `"state_dict"`,
    `"model_state_dict"` or `"model"`; or a module that has it.

    Example:

    >>> state = StateDict("load", {"module.top_l.0.bias": np.ones(3)}, "top_l.2k.bias")
    >>> state.take("top_l.0.bias", (3,), "width 3").tolist()
    [1.0, 1.0, 1.0]
    >>> state.finish()
    """

    def __init__(self, who: str, source: Any, keys: str) -> None:
        self.who, self._keys = who, keys
        if not isinstance(source, Mapping) and callable(getattr(source, "state_dict", None)):
            source = source.state_dict()
        for name in _CHECKPOINTS:
            if isinstance(source, Mapping) and isinstance(source.get(name), Mapping):
                source = source[name]
        if not isinstance(source, Mapping):
            raise TypeError(f"{who}: {type(source).__name__} is no state_dict; give model.state_dict(), or a checkpoint.")
        self._values: dict[str, Any] = {}
        keys_by_name: dict[str, str] = {}
        for key, value in source.items():
            if not isinstance(key, str):
                raise TypeError(f"{who}: a key is {key!r}; a state_dict has names such as {keys}.")
            plain = _INNER.sub("", _LEADING.sub("", key))
            if plain in keys_by_name:
                alike = f"{keys_by_name[plain]!r} and {key!r} are both {plain!r} without the names of wrappers"
                raise ValueError(f"{who}: {alike}; give one model.")
            keys_by_name[plain] = key
            self._values[plain] = value
        #: Whether the keys are sorted by name, as those of a DistributedModelParallel are: their order tells nothing then.
        self.sorted = list(self._values) == sorted(self._values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Any:
        return iter(list(self._values))

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a key's value, without reading it."""
        return tuple(self._values[key].shape if hasattr(self._values[key], "shape") else np.shape(self._values[key]))

    def matching(self, pattern: str) -> list[str]:
        """The group of a pattern in each key that it matches as a whole, in the keys' order."""
        return [match[1] for key in self._values if (match := re.fullmatch(pattern, key))]

    def take(self, key: str, shape: Sequence[int | None], why: str) -> np.ndarray:
        """The float32 array of a key, which is then read; `ValueError` for another shape than `why` needs (`None`: any)."""
        if key not in self._values:
            near = [other for other in self._values if other.rpartition(".")[0] == key.rpartition(".")[0]]
            hint = f" It has {near[0]!r}." if near else ""
            raise ValueError(f"{self.who}: {key!r} is missing from the state_dict.{hint} It needs {self._keys}.")
        array = _array(f"{self.who}: {key!r}", self._values.pop(key))
        if array.ndim != len(shape):
            dimensions = "one dimension" if len(shape) == 1 else f"{len(shape)} dimensions"
            raise ValueError(f"{self.who}: {key!r} has shape {array.shape}; it must have {dimensions}.")
        wanted = tuple(m if n is None else n for n, m in zip(shape, array.shape, strict=True))
        if array.shape != wanted:
            raise ValueError(f"{self.who}: {key!r} has shape {array.shape}; {why} needs {wanted}.")
        return array

    def mlp(
        self, weight: str, first: int | None, why: str, last: int | None = None, skip: int = 1, more: Sequence[str] = ()
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Weights (out, in) and biases (out,) of linear layers one after the other.

        Key `weight` is of layer number `{}`, with steps of `skip`, and ends with `.weight`, the bias's with `.bias`; `more` are
        keys of further weights. The first layer's input has the width `first`, for the reason `why`, the last one's output `last`.
        """
        keys, number = [], 0
        while weight.format(number) in self or weight.format(number).replace(".weight", ".bias") in self:
            keys.append(weight.format(number))
            number += skip
        layers: list[tuple[np.ndarray, np.ndarray]] = []
        width = first
        for k, key in enumerate([*keys, *more]):
            out = last if k == len(keys) + len(more) - 1 else None
            kernel = self.take(key, (out, width), why if k == 0 else f"the layer before it, {width} wide,")
            width = len(kernel)
            bias = key.removesuffix(".weight") + ".bias"
            layers.append((kernel, self.take(bias, (width,), f"{key}, {kernel.shape},")))
            for name, array in zip((key, bias), layers[-1], strict=True):
                if not np.isfinite(array).all():
                    place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
                    fix = "weights must be finite float32 numbers. Take a checkpoint from before training went wrong."
                    raise ValueError(f"{self.who}: {name} has {array[place]} at {place}; {fix}")
        return layers

    def finish(self) -> None:
        """Raise `ValueError` where a key was not read."""
        for key in self._values:
            fix = f"known are {self._keys}. Leave it out if the model does not need it for its predictions."
            raise ValueError(f"{self.who}: unknown key {key!r} of shape {self.shape(key)}; {fix}")


def _array(who: str, value: Any) -> np.ndarray:
    value = _whole(who, value)
    layout = str(getattr(value, "layout", "torch.strided"))
    if layout != "torch.strided" or getattr(value, "is_meta", False):
        meta = " without values (meta)" if value.is_meta else ""
        raise ValueError(f"{who} is a tensor of layout {layout}{meta}; make it dense, in memory.")
    for method in ("detach", "cpu"):
        if hasattr(value, method):
            value = getattr(value, method)()
    dtype = str(value.dtype) if hasattr(value, "dtype") else str(np.asarray(value).dtype)
    if "float" not in dtype or "qint" in dtype or "float8" in dtype:
        raise ValueError(f"{who} holds {dtype}; weights are floating-point numbers. Convert the model before it is quantized.")
    if hasattr(value, "float"):  # torch: NumPy has no bfloat16
        value = value.float()
    if hasattr(value, "numpy"):
        value = value.numpy()
    with np.errstate(over="ignore"):
        return np.asarray(value, dtype=np.float32)


def _whole(who: str, value: Any) -> Any:
    """The whole tensor of a sharded one, such as those of TorchRec's DistributedModelParallel."""
    if hasattr(value, "full_tensor"):
        return value.full_tensor()
    if not hasattr(value, "local_shards"):
        return value
    shards, size = value.local_shards(), tuple(value.metadata().size)
    covered = sum(shard.tensor.numel() for shard in shards)
    if covered != int(np.prod(size)):
        fix = "Gather it first, as with torch.distributed.checkpoint or ShardedTensor.gather."
        raise ValueError(f"{who} is in shards: {covered} of its {int(np.prod(size))} numbers are in this process. {fix}")
    out = np.empty(size, np.float32)
    for shard in shards:
        offsets, sizes = shard.metadata.shard_offsets, shard.metadata.shard_sizes
        place = tuple(slice(start, start + n) for start, n in zip(offsets, sizes, strict=True))
        out[place] = shard.tensor.detach().cpu().float().numpy()
    return out
