"""`ItemContent`: content vectors of a planted log's items, and the part of their effects that depends on these."""

import dataclasses

import numpy as np

from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import integer

#: Dimensions that the content has, whatever the width of its vectors.
TOPICS = 4
_NOISE = 0.1


@dataclasses.dataclass(frozen=True)
class ItemContent:
    """Content vectors of the items of one column, and a planted effect of each item that is a content part and a part of its own.

    Items lie in four hidden dimensions, z. A vector is a random linear map of z to `width` numbers, with some noise. The content
    part of the effect is a random quadratic function of z: known for an item that nobody has clicked yet. The item's own part
    is not.

    Args:
        column: The items' column.
        width: Numbers of a vector.
        share: Share of the effects' variance that the content part has.

    Raises:
        ValueError: a width or a share that cannot be.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("user", 50), kd.Categorical("item", 200)])
    >>> log = kd.data.synthetic.PlantedClickLog(schema, content=ItemContent("item", width=8))
    >>> log.content.shape
    (200, 8)
    """

    column: str
    width: int = 16
    share: float = 0.8

    def __post_init__(self) -> None:
        integer("ItemContent", "width", self.width)
        if isinstance(self.share, (bool, str)) or not 0.0 <= float(self.share) <= 1.0:
            raise ValueError(f"ItemContent: share={self.share!r} must lie between 0 and 1.")

    def table(self, schema: Schema) -> str:
        """Name of the table of the items; `ValueError` where the schema does not have the column."""
        tables = {column.name: column.table_name for column in schema.categorical}
        if self.column not in tables:
            raise ValueError(f"ItemContent: column={self.column!r} is no sparse column; use one of {list(tables)}.")
        return tables[self.column]

    def draw(self, random: np.random.Generator, own: np.ndarray, popularity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Own parts and shares of the rows (V,) → content vectors, float32 (V, width), and effects, float32 (V,).

        Over the rows, the effects have mean 0 and variance 1, and the parts their shares of it.
        """
        hidden = random.standard_normal((len(own), TOPICS))
        vectors = hidden @ random.standard_normal((TOPICS, self.width)) + _NOISE * random.standard_normal((len(own), self.width))
        linear, quadratic = random.standard_normal(TOPICS), random.standard_normal((TOPICS, TOPICS))
        content = hidden @ linear + 0.5 * np.einsum("vi,ij,vj->v", hidden, quadratic, hidden)
        effects = np.zeros(len(own))
        for part, share in ((content, self.share), (own.astype(np.float64), 1.0 - self.share)):
            centered = part - popularity @ part
            effects += np.sqrt(share / max(popularity @ centered**2, 1e-12)) * centered
        return vectors.astype(np.float32), effects.astype(np.float32)
