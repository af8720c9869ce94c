"""Signatures of an exported model: their names and the columns of each."""

import dataclasses
import keyword
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.schema.columns import Categorical
from keras_dlrm.schema.crosses import own
from keras_dlrm.schema.schema import Schema
from keras_dlrm.schema.time_parts import made_columns, sources
from keras_dlrm.schema.vectors import vectors
from keras_dlrm.support.arguments import choice

#: Inputs that are not columns of a schema.
WEIGHTS, EXAMPLES = "weights", "inputs"
DEFAULTS = ("packed", "columns", "raw")


@dataclasses.dataclass(frozen=True)
class Column:
    """An input of a signature that takes named columns."""

    name: str  # of the column
    dtype: str  # "float32", "float64", "int64" or "string"
    width: int | None  # values of a row: the input has shape (B, width), or (B,) where this is `None`
    truncated: bool = False  # whether rows may have other lengths, (B, k): the graph keeps `width` of their values
    input: str = ""  # name of the input, see `input_names`


def input_names(names: Iterable[str]) -> dict[str, str]:
    """Names of inputs for names in any script: `_` stands for what TensorFlow's graphs take in no name.

    `arg_` stands before a name that does not start with a letter, and before Python's own words, such as `class` and `self`. Of
    names that would be the same, as TensorFlow does not tell upper from lower case, the first that can stay as it is does; the
    others get `_2`, `_3` and so on behind them, in order.

    Args:
        names: Names of columns, all different.

    Example:

    >>> input_names(["user id", "User_ID", "user_id", "用户", "商品"])
    {'user id': 'user_id_2', 'User_ID': 'User_ID', 'user_id': 'user_id_3', '用户': 'arg___', '商品': 'arg____2'}
    """
    plain = {name: re.sub(r"[^A-Za-z0-9_]", "_", name) for name in names}
    for name, text in plain.items():
        if keyword.iskeyword(text) or text == "self" or not text[:1].isalpha():
            plain[name] = f"arg_{text}"
    unchanged: dict[str, str] = {}
    for name in plain:
        if plain[name] == name:
            unchanged.setdefault(name.lower(), name)
    taken, inputs = set(unchanged), {}
    for name, first in plain.items():
        inputs[name], number = first, 1
        while inputs[name].lower() in taken and unchanged.get(inputs[name].lower()) != name:
            number += 1
            inputs[name] = f"{first}_{number}"
        taken.add(inputs[name].lower())
    return inputs


def packed_inputs(schema: Schema) -> dict[str, tuple[tuple[int | None, ...], str]]:
    """Shape and dtype of each tensor of a packed batch, as files have them."""
    widths = {"dense": schema.n_dense, "sparse": schema.width, WEIGHTS: schema.width}
    return {name: ((None, widths[name]), "int64" if name == "sparse" else "float32") for name in schema.input_names}


def model_columns(schema: Schema) -> tuple[Column, ...]:
    """Columns as the model reads them: dense values, and ids padded with -1."""
    return _columns(schema, "float32", lambda column: "int64")


def raw_columns(preprocessor: Preprocessor) -> tuple[Column, ...]:
    """Columns as the log has them, before the preprocessor.

    Dense values are float64, NaN where missing. Ids that came as ids are int64; others are strings, empty where missing, and so
    are the times that columns are made of. Content vectors are float64 (B, width).
    """
    texts, schema = preprocessor.vocabularies, preprocessor.schema
    columns = _columns(schema, "float64", lambda column: "string" if column.hashed or column.table_name in texts else "int64")
    made = {column.name for column in made_columns(schema)}
    own = [column for column in columns if column.name not in made]
    content = [Column(name, "float64", width) for name, width in vectors(schema).items()]
    return _named([*own, *(Column(name, "string", None) for name in sources(schema)), *content])


def _columns(schema: Schema, dense: str, sparse: Callable[[Categorical], str]) -> tuple[Column, ...]:
    """Columns of a schema, with the dtype of the dense and of each sparse one, and the inputs' names."""
    columns = [Column(name, dense, None) for name in schema.dense_names]
    for column in own(schema.categorical):
        # Weights come as they are in a packed batch, so that ids cannot be longer.
        truncated = column.truncate is not None and not schema.weighted
        columns.append(Column(column.name, sparse(column), column.hotness if column.multi_hot else None, truncated))
    if schema.weighted:
        columns.append(Column(WEIGHTS, "float32", schema.width))
    return _named(columns)


def _named(columns: Sequence[Column]) -> tuple[Column, ...]:
    """The columns with the names of their inputs."""
    names = input_names(column.name for column in columns)
    return tuple(dataclasses.replace(column, input=names[column.name]) for column in columns)


def label_outputs(schema: Schema) -> dict[str, str]:
    """Names of the outputs of single labels, `probability_click` and the like, by label; none where there is one label.

    Example:

    >>> label_outputs(Schema(dense=["x"], label=["click", "add to cart"]))
    {'click': 'probability_click', 'add to cart': 'probability_add_to_cart'}
    """
    if len(schema.labels) == 1:
        return {}
    return {label: f"probability_{name}" for label, name in input_names(schema.labels).items()}


def named_probabilities(schema: Schema, probability: Any) -> dict[str, Any]:
    """Outputs of a signature: `probability` (B, T), and of several labels each one's column (B, 1) by the name of its output."""
    outputs = {name: probability[:, i : i + 1] for i, name in enumerate(label_outputs(schema).values())}
    return {"probability": probability, **outputs}


def signature_names(schema: Schema, raw: bool, user_columns: Sequence[str], default: str) -> dict[str, str]:
    """Signature name → what it takes: `packed`, `columns`, `raw` (with a preprocessor), `rank`, `classify` or `regress`.

    The last two give one number, and are left out where there are several labels.
    """
    kinds = ["packed", "columns", *(["raw"] if raw else []), *(["rank"] if user_columns else [])]
    kinds += ["classify", "regress"] if len(schema.labels) == 1 else []
    return {"serving_default": default, **{kind: kind for kind in kinds}}


def check(schema: Schema, raw: bool, user_columns: Sequence[str], default: str) -> None:
    """`ValueError` or `TypeError` where the arguments of `savedmodel` fit neither each other nor the schema."""
    choice("savedmodel", "default", default, DEFAULTS)
    if default == "raw" and not raw:
        raise ValueError("savedmodel: default='raw' needs the preprocessor that made the training data; give preprocessor=….")
    if isinstance(user_columns, str) or not all(isinstance(name, str) for name in user_columns):
        raise TypeError(f"savedmodel: user_columns={user_columns!r} must be a list of column names.")
    names = [*schema.dense_names, *(column.name for column in own(schema.categorical))]
    made = {column.name: column.of for column in made_columns(schema)}
    for name in user_columns:
        if name not in names:
            raise ValueError(f"savedmodel: user_columns names {name!r}; the schema has {names}.")
        if name in made:
            of = f"which is made of {made[name]!r} of each candidate"
            raise ValueError(f"savedmodel: user_columns names {name!r}, {of}; leave it out.")
    if user_columns and set(user_columns) == set(names):
        raise ValueError("savedmodel: user_columns names every column; leave those out in which candidates differ.")
    if schema.weighted and WEIGHTS in names:
        raise ValueError(f"savedmodel: column {WEIGHTS!r} has the name of the input of per-id weights; rename the column.")
