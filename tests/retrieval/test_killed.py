"""Kills of a process that builds and saves an index: the folder holds an old index or a new one, whole."""

import subprocess
import time

import pytest
from helpers.children import environment, kill
from helpers.suite import suite_on

from keras_dlrm.retrieval import Index

# Saves indexes of 2,000 and 3,000 items by turns; the larger arrays make the writing long.
PROGRAM = """
import sys
import numpy as np
import keras_dlrm as kd
schema = kd.Schema(categorical=[kd.Categorical("user", 10), kd.Categorical("item", 5000)])
tower = kd.models.TwoTower(schema, ["user"], ["item"], embedding_dim=4, output_dim=128, item_mlp=[], user_mlp=[], seed=0)
while True:
    for count in (2000, 3000):
        kd.retrieval.Index.build(tower, {"item": np.arange(count)}, dtype="int8").save(sys.argv[1])
        print(count, flush=True)
"""


@suite_on("torch")
@pytest.mark.parametrize("after", [0.0, *(pytest.param(0.03 * i, marks=pytest.mark.soak) for i in range(1, 20))])
def test_a_killed_process_leaves_the_old_index_or_the_new_one(after, programs, tmp_path):
    folder = tmp_path / "index"
    command = [programs / "python", "-c", PROGRAM, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout.readline() == "2000\n"
        time.sleep(after)
        kill(process)
    index = Index.load(folder)
    assert len(index) in (2000, 3000) and index.content.columns["sparse"][-1, 0] == len(index) - 1
    index.save(folder)
    assert len(Index.load(folder)) == len(index)
    # What the killed process had left is gone.
    assert len(list(folder.iterdir())) == 6
