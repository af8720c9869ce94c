"""Private names of TensorFlow Recommenders 0.7 from which weights are read. Its layers keep what they are made of to themselves."""

from typing import Any, NamedTuple


class Ranking(NamedTuple):
    """The parts of a `tfrs.experimental.models.Ranking`."""

    embedding_layer: Any
    bottom_stack: Any
    feature_interaction: Any
    top_stack: Any
    concat_dense: bool


def parts_of(ranking: Any) -> Ranking:
    """The parts of a `Ranking`; `AttributeError` names the first one that a model does not have."""
    return Ranking(*(getattr(ranking, f"_{part}") for part in Ranking._fields))


def features_of(embedding: Any) -> Any:
    """The configuration of the features of a `TPUEmbedding`."""
    return embedding._feature_config


def tables_of(embedding: Any) -> Any:
    """The variables of a `TPUEmbedding` by `TableConfig`; `None` before it was called."""
    return getattr(embedding._tpu_embedding, "embedding_tables", None)


def layers_of(block: Any) -> Any:
    """The layers of an `MLP` block; `None` where it has none."""
    return getattr(block, "_sublayers", None)


def dot_options(interaction: Any) -> tuple[bool, bool]:
    """`self_interaction` and `skip_gather` of a `DotInteraction`."""
    return bool(interaction._self_interaction), bool(interaction._skip_gather)


def cross_options(layer: Any) -> tuple[float, str]:
    """`diag_scale` of a `Cross`, and the name of its preactivation."""
    return layer._diag_scale, layer._preactivation.__name__


def kernels_of(layer: Any) -> list[tuple[Any, Any]]:
    """(down, up) Dense layers of a built `Cross` or `MultiLayerDCN`; down is `None` where the kernel is whole."""
    if type(layer).__name__ == "MultiLayerDCN":
        return list(zip(layer._dense_u_kernels, layer._dense_v_kernels, strict=True))
    return [(None, layer._dense) if layer._projection_dim is None else (layer._dense_u, layer._dense_v)]
