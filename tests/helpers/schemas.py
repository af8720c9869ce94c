"""A schema with columns of every kind, for its own tests."""

from keras_dlrm.schema.schema import Categorical, Dense, Schema

SCHEMA = Schema(
    dense=["price", Dense("age")],
    categorical=[
        Categorical("C1", 10),
        Categorical("tags", 5, hotness=3, oov=2),
        Categorical("last", 5, table="tags", oov=2),
    ],
    label="click",
)
