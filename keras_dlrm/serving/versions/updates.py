"""New values for the variables of a loaded SavedModel: rows of its tables, all else whole; all of a delta or nothing."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.config_pb2 import CallableOptions

from keras_dlrm.backend.private_tensorflow import callable_of
from keras_dlrm.files.deltas import Delta
from keras_dlrm.serving.wire.errors import invalid

# Names that `kd.export.savedmodel` gives to variables.
_KEY = re.compile(r"(?:tables/(?P<table>\d+)/(?P<array>\w+)|(?P<weight>weights/\d+|open/\d+/[01]))/\.ATTRIBUTES/VARIABLE_VALUE")


class _Variable(NamedTuple):
    """A variable of the graph: its key in files, and its handle."""

    table: int  # -1 for one that is not part of a table
    name: str
    dtype: Any
    columns: int  # of a table
    handle: Any


class Updates:
    """Operations that replace rows of tables and whole weights in a session, made once, when the model is loaded."""

    def __init__(self, session: Any, graph: Any, meta: Any) -> None:
        self._variables: list[_Variable] = []
        with graph.as_default():
            for key, node in sorted(variable_nodes(meta).items()):
                if match := _KEY.fullmatch(key):
                    op = graph.get_operation_by_name(node)
                    table, shape = match["table"], op.get_attr("shape")
                    columns = shape.dim[1].size if table else 0
                    place = (int(table), match["array"]) if table else (-1, match["weight"])
                    self._variables.append(_Variable(*place, op.get_attr("dtype"), columns, op.outputs[0]))
            rows = {n: tf.compat.v1.placeholder(tf.int64, [None]) for n in sorted({v.table for v in self._variables} - {-1})}
            self._update = self._current = None
            if self._variables:
                values = [tf.compat.v1.placeholder(v.dtype) for v in self._variables]
                of_rows = [v.name for v in rows.values()]
                new = CallableOptions(feed=of_rows + [v.name for v in values])
                new.target.extend(_write(v, rows, x).name for v, x in zip(self._variables, values, strict=True))
                old = CallableOptions(feed=of_rows, fetch=[_read(v, rows).name for v in self._variables])
                self._update, self._current = callable_of(session, new), callable_of(session, old)
        self._tables = list(rows)

    def prepared(self, delta: Delta) -> Callable[[], None]:
        """A call that gives the variables the values of a delta, which are in memory then; `ServingError` where they do not fit.

        Where it fails, the old values are in place again.
        """
        update, current = self._update, self._current
        if update is None or current is None:
            raise invalid(f"{delta.path} cannot be applied: the served model has none of the variables of kd.export.savedmodel.")
        weights = delta.weights()
        names = {v.name for v in self._variables if v.table < 0}
        arrays = {(n, name) for n, table in enumerate(delta.tables) for name in table["arrays"]}
        own = {(v.table, v.name) for v in self._variables if v.table >= 0}
        if set(weights) != names or arrays != own:
            raise invalid(f"{delta.path} cannot be applied: it has other variables than the served model.")
        rows = [np.array(delta.rows(n)) for n in self._tables]
        values = []
        for v in self._variables:
            if v.table < 0:
                values.append(weights[v.name].view(v.dtype.as_numpy_dtype))
            else:
                stored = np.array(delta.stored(v.table, v.name))
                if stored.shape[1] != v.columns * v.dtype.size:
                    raise invalid(f"{delta.path} cannot be applied: its rows of table {v.table} are of another width.")
                values.append(stored.view(v.dtype.as_numpy_dtype))

        def replace() -> None:
            try:
                before = current(*rows)
                try:
                    update(*rows, *values)
                except BaseException:
                    update(*rows, *before)
                    raise
            except tf.errors.OpError as error:
                raise invalid(f"{delta.path} cannot be applied: {error.message.splitlines()[0].split(' [[')[0]}.") from error

        return replace


def _write(variable: _Variable, rows: dict[int, Any], values: Any) -> Any:
    if variable.table < 0:
        return tf.raw_ops.AssignVariableOp(resource=variable.handle, value=values)
    return tf.raw_ops.ResourceScatterUpdate(resource=variable.handle, indices=rows[variable.table], updates=values)


def _read(variable: _Variable, rows: dict[int, Any]) -> Any:
    if variable.table < 0:
        return tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)
    return tf.raw_ops.ResourceGather(resource=variable.handle, indices=rows[variable.table], dtype=variable.dtype)


def variable_nodes(meta: Any) -> dict[str, str]:
    """Variable's node in a loaded graph by its key in the variables' files, as the graph's own restoring has them.

    Empty for a graph that restores its variables in another way than `tf.saved_model.save` writes it.
    """
    nodes = {node.name: node for node in meta.graph_def.node}
    functions = {function.signature.name: function for function in meta.graph_def.library.function}
    call = nodes.get(meta.saver_def.restore_op_name.partition(":")[0])
    restore = None if call is None else functions.get(call.attr["f"].func.name)
    if call is None or restore is None:
        return {}
    inner = {node.name: node for node in restore.node_def}
    handles = dict(zip((arg.name for arg in restore.signature.input_arg), call.input, strict=True))
    places = {}
    for assign in restore.node_def:
        if assign.op != "AssignVariableOp" or assign.input[0] not in handles:
            continue
        value = assign.input[1]
        while inner[value.partition(":")[0]].op == "Identity":
            value = inner[value.partition(":")[0]].input[0]
        source, _, index = value.partition(":tensors:")
        names = inner[inner[source].input[1].partition(":")[0]] if index else None
        if names is not None and inner[source].op == "RestoreV2":
            places[names.attr["value"].tensor.string_val[int(index)].decode()] = handles[assign.input[0]].partition(":")[0]
    return places
