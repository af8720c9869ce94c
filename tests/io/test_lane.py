"""Streams through tensorflow-io, from a real broker and real files, in processes that are really killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from helpers.children import environment

import keras_dlrm as kd
from keras_dlrm.data.streaming import Commits, KafkaStream, ParquetStream

pytestmark = pytest.mark.usefixtures("lane")
ROOT = Path(__file__).resolve().parents[2]


def row(i):
    return {"price": i / 10, "user": i % 8, "city": "ab"[i % 2], "click": i % 2}


def drained(stream):
    stream.seek()
    parts = list(stream.batches(1000))
    return np.concatenate([b["dense"] for b, _ in parts]), np.concatenate([b["sparse"] for b, _ in parts])


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_messages_come_as_they_were_sent_and_go_on_at_an_offset(broker, preprocessor, compression):
    topic = f"codec-{compression}"
    broker.produce(topic, [row(i) for i in range(3000)], 1, compression)
    with KafkaStream(topic, broker.address, preprocessor) as stream:
        dense, sparse = drained(stream)
        np.testing.assert_allclose(dense[:, 0], np.arange(3000) / 10, rtol=1e-6)
        np.testing.assert_array_equal(sparse[:, 0], np.arange(3000) % 8)
        stream.seek({f"{topic}:1": 2345})
        chunk = stream.read(100, until_end=True)
        assert chunk.batch["dense"][0, 0] == np.float32(234.5) and chunk.positions[f"{topic}:1"] == 2445


def test_what_is_produced_later_is_read_later(broker, preprocessor):
    broker.produce("later", [row(0)], 0)
    with KafkaStream("later", broker.address, preprocessor, start="latest", poll=0.05) as stream:
        assert stream.read(10, until_end=True) is None
        broker.produce("later", [row(1), row(2)], 0)
        broker.produce("later", [row(3)], 3)
        chunk = stream.read(10, max_wait=1)
        assert sorted(chunk.batch["dense"][:, 0].round(1).tolist()) == pytest.approx([0.1, 0.2, 0.3])


def test_bad_messages_stop_with_their_place_or_are_counted(broker, preprocessor):
    broker.produce("bad", [row(0), b"{", row(1), {**row(2), "user": 99}, b"", row(3)], 2)
    with KafkaStream("bad", broker.address, preprocessor) as stream:
        with pytest.raises(ValueError, match="bad:2, offset 1: the message is not valid JSON"):
            stream.read(10, until_end=True)
    with KafkaStream("bad", broker.address, preprocessor, on_error="skip") as stream:
        chunk = stream.read(10, until_end=True)
        assert (chunk.read, chunk.rows, stream.bad.skipped) == (6, 3, 3)
        assert [r.row for r in stream.bad.examples] == [1, 3, 4]


def test_examples_and_csv_are_read(broker, preprocessor):
    import tensorflow as tf

    def feature(value):
        kinds = {float: ("float_list", tf.train.FloatList), int: ("int64_list", tf.train.Int64List)}
        name, kind = kinds.get(type(value), ("bytes_list", tf.train.BytesList))
        value = value.encode() if isinstance(value, str) else value
        return tf.train.Feature(**{name: kind(value=[value])})

    features = {name: feature(value) for name, value in row(5).items()}
    message = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    broker.produce("examples", [message, b"\xff\xff"], 0)
    broker.produce("csvs", [b"x,1,b,5,0.5"], 0)
    with KafkaStream("examples", broker.address, preprocessor, format="example", on_error="skip") as stream:
        one = drained(stream)
        assert stream.bad.skipped == 1
    columns = ["other", "click", "city", "user", "price"]
    with KafkaStream("csvs", broker.address, preprocessor, format="csv", columns=columns) as stream:
        for a, b in zip(one, drained(stream), strict=True):
            np.testing.assert_array_equal(a, b)


def test_messages_that_the_broker_has_deleted_are_an_error(broker, preprocessor):
    broker.produce("old", [{**row(i), "text": "x" * 5000} for i in range(1500)], 0)  # the broker holds 5 MB
    with KafkaStream("old", broker.address, preprocessor) as stream:
        stream.seek()
        low = stream.positions["old:0"]
        assert low > 0
        with pytest.raises(ValueError, match=rf"old:0: the next offset to read is 0, but the topic holds {low}"):
            stream.seek({"old:0": 0})
        with pytest.raises(ValueError, match="recreated"):
            stream.seek({"old:0": 1501})
    with KafkaStream("old", broker.address, preprocessor, on_lost="continue") as stream:
        stream.seek({"old:0": 0})
        assert stream.lost == low and stream.read(2, until_end=True).batch["dense"][0, 0] == np.float32(low / 10)


def test_what_is_not_there_is_named(broker, preprocessor):
    broker.produce("there", [row(0)], 0)
    with pytest.raises(ValueError, match="no partition 7"):
        KafkaStream("there", broker.address, preprocessor, partitions=[7])
    with pytest.raises(ConnectionError, match="no broker answers at 127.0.0.1:1"):
        KafkaStream("there", "127.0.0.1:1", preprocessor, timeout=1)
    with pytest.raises(ValueError, match="set here"):
        KafkaStream("there", broker.address, preprocessor, config={"auto.offset.reset": "latest"})


def run(arguments):
    command = [sys.executable, str(ROOT / "trainers" / "online.py"), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=environment(TF_CPP_MIN_LOG_LEVEL="3"),
    )  # fmt: skip


@pytest.mark.parametrize("often", [pytest.param(2, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.soak)])
def test_killed_at_random_moments_nothing_is_lost_and_the_model_is_the_same(broker, preprocessor, tmp_path, often):
    rows = 6000
    for partition in range(3):
        broker.produce("kill", [row(3 * i + partition) for i in range(rows // 3)], partition)
    preprocessor.save(tmp_path / "preprocessor")
    arguments = ["kill", "--servers", broker.address, "--preprocessor", tmp_path / "preprocessor", "--until-end"]
    arguments += ["--batch-size", 50, "--chunk", 2]
    whole = run([*arguments, "--output", tmp_path / "whole"])
    told, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors
    folder, kills, moments = tmp_path / "killed", 0, random.Random(7)
    while kills < often:
        process = run([*arguments, "--output", folder])
        before = max([0, *(int(p.name[7:]) for p in folder.glob("commit-*"))])
        deadline = time.monotonic() + 120
        while not (folder / f"commit-{before + 2:08d}").exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.3))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        with Commits(folder) as commits:
            _, state = commits.load()
        # Positions and counts move together: what was committed is exactly what was read.
        assert sum(state["positions"].values()) == state["read"] == state["trained"] == 100 * (commits.number - 1)
        assert state["read"] < rows, "the kills came too late to mean anything"
    last = run([*arguments, "--output", folder])
    told, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    with Commits(folder) as one, Commits(tmp_path / "whole") as other:
        (model, state), (expected, whole_state) = one.load(), other.load()
    assert state["positions"] == whole_state["positions"] == {"kill:0": 2000, "kill:1": 2000, "kill:2": 2000, "kill:3": 0}
    assert state["trained"] == rows and int(model.optimizer.iterations) == rows // 50
    for a, b in zip(model.variables, expected.variables, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-7)
    assert json.loads(told.splitlines()[-1])["scores"]["loss"] < 0.7


def test_parquet_gives_the_batches_of_the_preprocessor_and_trains(preprocessor, tmp_path):
    frame = pl.DataFrame([row(i) for i in range(9001)]).with_columns(pl.col("user").cast(pl.UInt8))
    frame[:5000].write_parquet(tmp_path / "a.parquet", row_group_size=700)
    frame[5000:].write_parquet(tmp_path / "b.parquet")
    stream = ParquetStream(str(tmp_path / "*.parquet"), preprocessor)
    dense, sparse = drained(stream)
    expected = preprocessor.transform(frame)
    np.testing.assert_array_equal(dense, expected["dense"])
    np.testing.assert_array_equal(sparse, expected["sparse"])
    stream.seek({str(tmp_path / "a.parquet"): 4321})
    np.testing.assert_array_equal(stream.read(10).batch["dense"], expected["dense"][4321:4331])
    model = kd.models.DLRM(preprocessor.schema, embedding_dim=4, bottom_mlp=[4], top_mlp=[1])
    model.compile("adagrad", loss="binary_crossentropy")
    model.fit(stream.dataset(500), epochs=2, shuffle=False, verbose=0)
    assert int(model.optimizer.iterations) == 2 * 19


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"price": [1.0, None]}, "'price' has 1 missing values"),
        ({"city": [["a"], ["b"]]}, "'city' is List"),
        ({"click": None}, "'click' is missing"),
    ],
)
def test_parquet_files_that_would_be_read_wrong_are_refused(preprocessor, tmp_path, change, said):
    frame = pl.DataFrame({"price": [1.0, 2.0], "user": [1, 2], "city": ["a", "b"], "click": [0, 1]})
    frame = frame.with_columns(pl.Series(k, v) for k, v in change.items() if v).drop([k for k, v in change.items() if not v])
    frame.write_parquet(tmp_path / "x.parquet")
    with pytest.raises((ValueError, KeyError), match=said):
        ParquetStream(tmp_path / "x.parquet", preprocessor).read(1)
