"""`HostTables`: the option for embedding tables that are larger than memory."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from keras_dlrm import backend
from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.stacking import Stack
from keras_dlrm.support.arguments import integer


@dataclasses.dataclass(frozen=True)
class HostTables:
    """Embedding tables, and their optimizer slots, in a file; the device has a cache of their rows.

    An option of every model: `embedding_options={"host": kd.HostTables("/fast-disk", device_rows=10**6)}`. Before a step the rows
    that it looks up are brought into the cache, and those that were used longest ago give way. `fit` knows the next batches,
    brings their rows while a step runs, and gives up none of them. A row's numbers do not depend on where it is: losses and
    weights are those of the same model without this option.

    The file has no name and is gone with the process, however that ends. A run continues from a checkpoint (`kd.checkpoint`,
    `kd.train`), which holds whole tables as ever. A row that no step has changed takes no disk.

    Args:
        path: Folder for the file: of a fast disk, or of memory, such as `/dev/shm`. It is made where there is none.
        device_rows: Rows in the cache, of all tables together. It must hold those that one batch looks up, better those of three.

    Raises:
        ValueError: `device_rows` is not 1 or more.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("user", 10_000), kd.Categorical("item", 5_000)])
    >>> import tempfile
    >>> host = HostTables(tempfile.mkdtemp(), device_rows=100)
    >>> model = kd.models.DLRM(schema, 4, top_mlp=[4, 1], embedding_options={"host": host})
    >>> model.compile("adagrad")
    >>> batch = {"sparse": np.array([[9_999, 0], [17, 4_999]], np.int32)}
    >>> _ = model.fit(batch, np.array([0, 1]), verbose=0)
    >>> {name: table.shape for name, table in model.embedding_tables().items()}
    {'user': (10000, 4), 'item': (5000, 4)}

    Source: Agarwal et al. 2022, "Bagpipe: Accelerating Deep Recommendation Model Training" (look-ahead).
    """

    path: str | os.PathLike[str]
    device_rows: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", os.fspath(self.path))
        object.__setattr__(self, "device_rows", integer("HostTables", "device_rows", self.device_rows))

    @classmethod
    def of(cls, options: "Self | Mapping[str, Any]") -> Self:
        """The option itself, or as a mapping of its arguments; `ValueError` for other ones."""
        if isinstance(options, cls):
            return options
        if not isinstance(options, Mapping) or set(options) != {"path", "device_rows"}:
            raise ValueError(f"embedding_options: host={options!r} must be kd.HostTables(path, device_rows=…).")
        return cls(**options)

    @property
    def folder(self) -> Path:
        """The folder of the file."""
        return Path(self.path).absolute()

    def check(self, schema: Schema, sharded: bool, split: bool, table_dtype: str) -> None:
        """`ValueError` where a collection is asked for what does not go together with this option."""
        reasons = {
            "a sharding plan; shard the tables, or leave host out": sharded,
            "the replicas of a strategy; train in one process": backend.replicas() is not None,
            "quotient_remainder, which stores tables in another way; leave one of them out": split,
            f"table_dtype={table_dtype!r}, whose rounding depends on a row's place; use 'float32'": table_dtype != "float32",
            "an open vocabulary, whose rows start anew; give its table the rows that the device has room for": any(
                c.open is not None for c in schema.categorical
            ),
            "id_dropout of a column, which changes ids in a step; leave it out": any(c.id_dropout for c in schema.categorical),
        }
        for reason, here in reasons.items():
            if here:
                raise ValueError(f"embedding_options: host does not work with {reason}.")

    def shares(self, stacks: Sequence[Stack]) -> list[int]:
        """Rows of the cache for each stack: in proportion to its rows, at least one, and no more than it has."""
        rows = sum(stack.rows for stack in stacks)
        return [min(stack.rows, -(-self.device_rows * stack.rows // rows)) for stack in stacks]
