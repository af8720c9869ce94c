"""The mixture of experts against a backward pass by hand."""

import numpy as np
from helpers.calls import called, gradients
from keras import ops

from keras_dlrm.layers import MMoEHead
from keras_dlrm.tasks import MMoE

EXPERTS, LABELS, WIDTH, ROWS = 3, 2, 4, 7


def by_hand(x, upstream, kernels, biases, gates, towers, tower_biases):
    """Logits (B, T), and the gradients of the sum of logits times `upstream`, in float64 (equations 6 to 8 of Ma et al. 2018)."""
    hidden = [x @ kernel + bias for kernel, bias in zip(kernels, biases, strict=True)]
    experts = np.stack([np.maximum(h, 0) for h in hidden], axis=1)  # (B, E, m)
    scores = np.exp((x @ gates).reshape(len(x), LABELS, EXPERTS))
    shares = scores / scores.sum(axis=2, keepdims=True)  # (B, T, E)
    mixtures = np.einsum("bte,bem->btm", shares, experts)
    logits = np.stack([mixtures[:, t] @ towers[t] + tower_biases[t] for t in range(LABELS)], axis=1)[:, :, 0]

    of_mixtures = np.stack([upstream[:, [t]] @ towers[t].T for t in range(LABELS)], axis=1)
    of_shares = np.einsum("btm,bem->bte", of_mixtures, experts)
    of_scores = shares * (of_shares - (shares * of_shares).sum(axis=2, keepdims=True))
    of_hidden = np.einsum("bte,btm->ebm", shares, of_mixtures) * (np.stack(hidden) > 0)
    flat = of_scores.reshape(len(x), -1)
    return logits, [
        sum(of_hidden[e] @ kernels[e].T for e in range(EXPERTS)) + flat @ gates.T,
        *(part for e in range(EXPERTS) for part in (x.T @ of_hidden[e], of_hidden[e].sum(axis=0))),
        x.T @ flat,
        *(part for t in range(LABELS) for part in (mixtures[:, t].T @ upstream[:, [t]], upstream[:, t].sum(keepdims=True))),
    ]


def test_gradients_equal_a_backward_pass_by_hand():
    rng = np.random.default_rng(0)
    x, upstream = (rng.normal(size=(ROWS, n)).astype("float32") for n in (5, LABELS))
    head = MMoEHead(MMoE([], EXPERTS, [WIDTH]), LABELS, seed=0)
    head.build(x.shape)
    networks = [dense for network in (*head.experts, *head.towers) for dense in network.dense_layers]
    kernels, biases = ([getattr(dense, name) for dense in networks] for name in ("kernel", "bias"))
    for bias in biases:
        bias.assign(rng.normal(size=bias.shape))
    pairs = [variable for pair in zip(kernels, biases, strict=True) for variable in pair]
    ordered = [*pairs[: 2 * EXPERTS], head.gates.kernel, *pairs[2 * EXPERTS :]]
    assert {id(v) for v in ordered} == {id(v) for v in head.trainable_variables}

    def loss(inputs, *values):
        values_of = {id(v): value for v, value in zip(ordered, values, strict=True)}
        logits, _ = head.stateless_call([values_of[id(v)] for v in head.trainable_variables], [], inputs)
        return ops.sum(ops.multiply(logits, upstream))

    start = [x, *(ops.convert_to_numpy(v.value).copy() for v in ordered)]
    wide = [each.astype("float64") for each in start]
    of_experts, gates, of_towers = wide[1 : 1 + 2 * EXPERTS], wide[1 + 2 * EXPERTS], wide[2 + 2 * EXPERTS :]
    logits, expected = by_hand(
        wide[0], upstream.astype("float64"), of_experts[::2], of_experts[1::2], gates, of_towers[::2], of_towers[1::2]
    )
    np.testing.assert_allclose(ops.convert_to_numpy(called(head, x)), logits, rtol=1e-5, atol=1e-6)
    for gradient, hand in zip(gradients(loss, start), expected, strict=True):
        np.testing.assert_allclose(gradient, hand, rtol=1e-5, atol=1e-5)
