"""Operations that a training step of DLRM needs and bytes that it has to move, stage by stage, from shapes alone.

The model of counting:

- A multiplication, an addition, a comparison with its choice, a root or an exponential is one operation (FLOP). Work on
  integers (ids, sorting them) is none. Bias and activation of a Dense layer are left out beside its products.
- Each layer moves its inputs, weights and outputs once forward; backward it moves the gradient of the output, what the
  layer needs of the forward pass and its weights in, and gradients of inputs and weights out. What happens inside a
  layer (copies, casts, padding, the square matrix of dot products) is free. So these are the bytes of perfectly fused
  layers with a cache for the inside of each, and a stage that does more comes out as a lower share of the limit.
- Rows of tables count once per batch, however often their id is repeated: `unique` of them.
- Weights, their gradients, slots, table rows and their gradients, logits and labels have 4 bytes, ids, too; activations
  have 4, or 2 in bfloat16.
- Dot products count as the package computes them: the whole F × F matrix, of which it uses the lower triangle.
"""

from __future__ import annotations

import dataclasses

from workload import Shape

STAGES = ("input", "lookup", "interaction", "MLPs", "loss", "dense update", "row update")
# Of a rule: slots per element, slots per row, operations per element, operations per row.
RULES = {"sgd": (0, 0, 2, 0), "adagrad": (1, 0, 7, 0), "rowwise_adagrad": (0, 1, 5, 3), "adam": (2, 0, 12, 0)}


@dataclasses.dataclass(frozen=True)
class Count:
    """Operations and bytes."""

    flops: float = 0
    bytes: float = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.flops + other.flops, self.bytes + other.bytes)

    @property
    def intensity(self) -> float:
        """FLOP per byte."""
        return self.flops / self.bytes

    def seconds(self, bytes_per_s: float, flops_per_s: float) -> float:
        """The least time on a machine with these limits (its “roofline”)."""
        return max(self.bytes / bytes_per_s, self.flops / flops_per_s)


def dense_layer(batch: int, inputs: int, outputs: int, width: int, input_gradient: bool = True) -> Count:
    """A Dense layer, forward and backward.

    Args:
        batch: Rows.
        inputs, outputs: Its shape.
        width: Bytes of an activation.
        input_gradient: Whether anybody needs the gradient of its input.
    """
    x, y, weights = width * batch * inputs, width * batch * outputs, 4 * (inputs + 1) * outputs
    products = 3 if input_gradient else 2
    backward = (y + y + x + weights) + (x + weights if input_gradient else 0)
    return Count(2 * products * batch * inputs * outputs, (x + weights + y) + backward)


def interaction(shape: Shape, batch: int, width: int) -> Count:
    """The layers between the pooled vectors and the top MLP, forward and backward."""
    vectors = len(shape.rows) + 1
    x, y = width * batch * vectors * shape.dim, width * batch * shape.top_inputs
    moved = Count(0, (x + y) + (y + x + x))
    if shape.interaction == "dot":
        return moved + Count(2 * 2 * batch * vectors**2 * shape.dim, 0)
    n, found = vectors * shape.dim, Count(0, 2 * (x + y))
    for _ in range(shape.cross_layers if shape.interaction == "cross" else 0):
        ranks = [n, shape.projection_dim, n] if shape.projection_dim else [n, n]
        for inputs, outputs in zip(ranks, ranks[1:], strict=False):
            found += dense_layer(batch, inputs, outputs, width)
        # x0 · crossed + x: three in and one out; backward three in and three out.
        found += Count((3 + 5) * batch * n, (4 + 6) * x)
    return found


def stages(shape: Shape, batch: int, unique: float, dtype: str = "float32", rule: str = "sgd") -> dict[str, Count]:
    """Each of `STAGES` in one training step.

    Args:
        shape: The model.
        batch: Rows of a batch.
        unique: Different rows of tables that a batch looks up.
        dtype: Of activations: `"float32"` or `"bfloat16"`.
        rule: Of dense weights and of tables; dense weights take `"rowwise_adagrad"` as `"adagrad"`.
    """
    width = 4 if dtype == "float32" else 2
    ids, rows = batch * shape.ids, unique * shape.dim
    pooled = width * batch * len(shape.rows) * shape.dim
    mlps = Count()
    for i, (inputs, outputs) in enumerate(shape.products):
        mlps += dense_layer(batch, inputs, outputs, width, input_gradient=i > 0)
    slots, _, per_element, _ = RULES["adagrad" if rule == "rowwise_adagrad" else rule]
    dense = Count(per_element * shape.weights, 4 * shape.weights * (3 + 2 * slots))
    slots, row_slots, per_element, per_row = RULES[rule]
    return {
        # From the file and into tensors.
        "input": Count(0, 2 * 4 * (batch * shape.n_dense + ids + batch)),
        # Ids in; rows in and out, for the update; which id asks for which row, out and in; vectors out. Their gradient
        # in, that of the rows out. Additions: of a bag's rows, and of the gradients of repeated ids.
        "lookup": Count(
            (ids - batch * len(shape.rows)) * shape.dim + (ids - unique) * shape.dim,
            4 * (ids + 2 * ids + 3 * rows) + 2 * pooled,
        ),
        "interaction": interaction(shape, batch, width),
        "MLPs": mlps,
        # Logits and labels in; loss, prediction and gradient out: 4 operations of the sigmoid, 8 of the loss, 1 of the
        # mean, 2 of the gradient.
        "loss": Count(15 * batch, 4 * 4 * batch),
        "dense update": dense,
        # Ids, rows and gradients in, rows out; slots in and out.
        "row update": Count(
            per_element * rows + per_row * unique,
            4 * (unique + rows * (3 + 2 * slots) + 2 * unique * row_slots),
        ),
    }
