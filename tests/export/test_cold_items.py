"""Items that training never saw: the served model knows their content, and answers as the live one."""

import numpy as np
import pytest
from helpers.suite import suite_on

import keras_dlrm as kd
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.usefixtures("quick_exports")


@suite_on("tensorflow")
def test_a_new_item_scored_by_the_served_model_is_scored_as_by_the_live_one(tmp_path):
    random = np.random.default_rng(0)
    vectors, item = random.normal(size=(40, 6)).astype(np.float32), np.arange(400) * 7 % 40
    clicks = random.random(400) < 1 / (1 + np.exp(-vectors[item, 0]))
    rows = {"item": [f"item {i}" for i in item], "v": vectors[item], "click": clicks}
    codes = kd.SemanticIds("codes", of="v", width=6, levels=3, codes=8, rows=300)
    schema = kd.Schema([*kd.ContentVector("v", 6)], [kd.Categorical("item", id_dropout=0.2), codes], label="click")
    preprocessor = Preprocessor.fit(schema, rows)
    model = kd.models.DeepFM(preprocessor.schema, embedding_dim=4, deep_mlp=[8], seed=0)
    model.compile(optimizer="adagrad", loss="binary_crossentropy")
    model.fit(preprocessor.transform(rows), rows["click"].astype(np.float32), batch_size=50, epochs=2, verbose=0)

    new = {"item": [f"new item {i}" for i in range(30)], "v": random.normal(size=(30, 6))}
    live = kd.scoring.predict_rows(model, new, preprocessor=preprocessor)
    assert live.std() > 1e-4
    path = kd.export.savedmodel(model, tmp_path / "model", preprocessor=preprocessor, default="raw")
    served = tf.saved_model.load(str(path))
    answer = served.signatures["raw"](item=tf.constant(new["item"]), v=tf.constant(new["v"]))["probability"].numpy()[:, 0]
    np.testing.assert_allclose(answer, live, atol=1e-6)
    examples = []
    for name, vector in zip(new["item"], new["v"], strict=True):
        text, numbers = (tf.train.Feature(), tf.train.Feature())
        text.bytes_list.value.append(name.encode())
        numbers.float_list.value.extend(vector)
        examples.append(tf.train.Example(features=tf.train.Features(feature={"item": text, "v": numbers})).SerializeToString())
    scores = served.signatures["classify"](tf.constant(examples))["scores"].numpy()[:, 1]
    narrow = kd.scoring.predict_rows(model, {**new, "v": new["v"].astype(np.float32)}, preprocessor=preprocessor)
    np.testing.assert_allclose(scores, narrow, atol=1e-6)

    requests = pytest.importorskip("requests")
    pytest.importorskip("starlette")
    from keras_dlrm.serving import ModelConfig, Server

    known = kd.scoring.predict_rows(model, {"item": ["item 3"], "v": [None]}, preprocessor=preprocessor)
    with Server([ModelConfig("m", path.parent)], port=0, grpc_port=0) as server:

        def post(method, instances):
            url = f"http://127.0.0.1:{server.port}/v1/models/m:{method}"
            answer = requests.post(url, json={"instances": instances}, timeout=60)
            assert answer.status_code == 200, answer.text
            return answer.json()

        sent = [{"item": new["item"][0], "v": new["v"][0].tolist()}, {"item": "item 3", "v": None}, {"item": "item 3", "v": []}]
        probabilities = np.array(post("predict", [*sent, {"item": "item 3"}])["predictions"])[:, 0]
        np.testing.assert_allclose(probabilities, [live[0], *[known[0]] * 3], atol=1e-6)
        features = {feature["name"] for feature in post("explain", sent[:1])["features"]}
        assert features == {"item", *(f"v[{i}]" for i in range(6))}
