"""TorchRec's own models, in an environment of their own, predict what the converted ones predict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.peers import interpreter, run
from helpers.torchrec_states import DENSE

from keras_dlrm.convert import from_torchrec, to_torchrec
from keras_dlrm.schema.schema import Categorical, Schema

PEER = Path(__file__).parent / "torchrec_peer.py"


@pytest.fixture(scope="module")
def torchrec_python():
    return interpreter("KERAS_DLRM_TORCHREC_PYTHON", "torchrec", "requirements-torchrec.txt")


@pytest.fixture(scope="module")
def made(torchrec_python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrec")
    (folder / "sharded.txt").write_text(run(torchrec_python, PEER, "make", folder))
    return folder


COLUMNS = {
    "plain": [Categorical("a", 9, table="t_a"), Categorical("b", 5, table="t_b"), Categorical("c", 6, table="t_c")],
    "multi": [Categorical("a", 9, 4, table="t_a"), Categorical("b", 5, table="t_b"), Categorical("c", 6, 3, "mean", "t_c")],
    "shared": [Categorical("a", 9, 3, table="item"), Categorical("b", 5, table="t_b"), Categorical("c", 9, table="item")],
}  # fmt: skip
CASES = {"dot": "plain", "dot_multi": "multi", "dot_shared": "shared", "dcn": "multi", "dcn_shared": "shared"}


def case(folder, name, state=None):
    """The model converted from a case, its batch, TorchRec's answer and order of the features."""
    from keras_dlrm.export import torch_file

    schema = Schema(["x0", "x1", "x2"], COLUMNS[CASES[name]])
    state = torch_file.load(folder / f"{name}.pt") if state is None else state
    with np.load(folder / f"{name}.npz") as file:
        features = file["features"].tolist()
        model = from_torchrec(state, schema, features=features)
        dense = {f"x{i}": file["dense"][:, i] for i in range(DENSE)}
        batch = schema.pack({**dense, **{column: file[column] for column in features}})
        return model, batch, file["expected"], features


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_predictions_equal_those_of_the_real_torchrec(made, name):
    pytest.importorskip("torch")
    model, batch, expected, _ = case(made, name)
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(model.predict(batch, verbose=0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_model_parallel_checkpoint_of_the_real_torchrec_is_read(made):
    torch = pytest.importorskip("torch")
    assert "ShardedTensor" in (made / "sharded.txt").read_text()
    state = torch.load(made / "sharded.pt", weights_only=True)
    model, batch, _, _ = case(made, "dot_shared", state)
    expected = np.load(made / "sharded.npy")
    np.testing.assert_allclose(model.predict(batch, verbose=0), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="the keys are sorted by name, as a DistributedModelParallel has them"):
        from_torchrec(state)


@pytest.mark.slow
def test_a_projection_model_of_the_real_torchrec_is_refused(made):
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="interaction_branch1.* is of a DLRM_Projection"):
        from_torchrec(torch.load(made / "projection.pt", weights_only=True))


@pytest.mark.slow
def test_the_real_torchrec_loads_what_is_written_and_predicts_the_same(made, torchrec_python, tmp_path):
    """Weights that were not TorchRec's before: a model of ours, some steps trained."""
    pytest.importorskip("torch")
    ours = {}
    for name in CASES:
        model, batch, _, features = case(made, name)
        model.compile("adagrad")
        model.fit(batch, np.arange(len(batch["dense"])) % 2, batch_size=10, epochs=1, verbose=0)
        np.savez(tmp_path / f"{name}.back.npz", **to_torchrec(model, features=features))
        ours[name] = model.predict(batch, verbose=0)
        other = case(made, name)[2]
        assert np.abs(ours[name] - other).max() > 1e-4
    run(torchrec_python, PEER, "load", tmp_path)
    for name, answer in ours.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.answer.npy"), answer, rtol=1e-5, atol=1e-6)
