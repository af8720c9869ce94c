"""The command line as a newcomer meets it on a terminal: nothing but the package's own words, in 80 columns."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import zipfile
from pathlib import Path

import pytest
from helpers.children import environment

from keras_dlrm.cli import main
from keras_dlrm.support.terminal import print_table

pytestmark = pytest.mark.neutral
ESCAPES = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")
FRAMEWORKS = ("keras", "tensorflow", "jax", "torch")


class Terminal(io.StringIO):
    """Text that is taken for a terminal."""

    def isatty(self) -> bool:
        return True


def on_a_terminal(*command: str) -> tuple[int, list[str]]:
    """Exit code of a command on a terminal of 80 columns, and all lines that were ever on it."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    variables = environment(TERM="xterm-256color", KERAS_BACKEND="tensorflow")
    for name in ("COLUMNS", "TF_CPP_MIN_LOG_LEVEL"):
        variables.pop(name, None)
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=variables)
    os.close(its)
    text = b""
    try:
        while part := os.read(ours, 65_536):
            text += part
    except OSError:  # the command has ended
        pass
    os.close(ours)
    lines = re.split(r"[\r\n]+", ESCAPES.sub("", text.decode()))
    return process.wait(), [line.rstrip() for line in lines if line.strip()]


@pytest.mark.slow
def test_training_on_a_terminal_shows_its_own_words_in_80_columns(planted: Path, programs: Path, tmp_path: Path) -> None:
    small = ["--set", "model.embedding_dim=4", "--set", "model.bottom_mlp=[8, 4]", "--batch-size", "4", "--epochs", "1"]
    command = [str(programs / "keras-dlrm"), "train", "--data", str(planted), "--output", str(tmp_path / "run"), *small]
    code, lines = on_a_terminal(*command)
    assert code == 0, lines
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80, lines
    bars = [line for line in lines if re.search(r"epoch 1/1 .*\d+/150 .*\d/s loss 0\.\d{4} AUC 0\.\d{4}$", line)]
    assert bars, lines
    own = r"epoch 1/1|DLRM on tensorflow|samples/s|part|valid|test|best|distance|The best|below|above|model, result|─|it\.$|\S*run$"
    own += "|click rate|logistic regression"
    verdict = json.loads((tmp_path / "run" / "result.json").read_text())["verdict"]
    assert [line for line in lines if not re.search(own, line) and line.strip() not in verdict] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["train", "--data", "no-such-log"],
        ["train", "--data", "LOG", "--set", "epohcs=3"],
        ["train", "--data", "LOG", "--model", "GBDT"],
        ["train", "--data", "LOG", "--config", "nothing.yaml"],
        ["train", "--data", "LOG", "--output", "LOG"],
        ["compare", "--data", "no-such-log"],
        ["evaluate", "LOG/nothing.keras", "--data", "LOG"],
        ["evaluate", "MODEL", "--data", "no-such-log"],
        ["export", "MODEL", "--output", "served", "--data", "no-such-log"],
        ["predict", "MODEL", "--output", "p.csv", "--data", "no-such-log"],
        ["predict", "MODEL", "--output", "p.csv", "--input", "nothing.csv", "--preprocessor", "LOG"],
    ],
    ids=lambda command: " ".join(command),
)
def test_a_typing_error_is_told_before_a_framework_is_imported(command: list[str], planted: Path) -> None:
    with zipfile.ZipFile(planted.parent / "model.keras", "w") as archive:  # whole, as far as its checksums go
        for name in ("config.json", "metadata.json", "model.weights.h5"):
            archive.writestr(name, "{}")
    arguments = [word.replace("LOG", str(planted)).replace("MODEL", str(planted.parent / "model.keras")) for word in command]
    program = f"""
import sys
from keras_dlrm.cli import main
try:
    main({arguments!r})
except SystemExit as end:
    print(end.code, *[name for name in {FRAMEWORKS!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "2\n", (done.stdout, done.stderr)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fractions", "80", "10", "10"], "--fractions 80 10 10"),
        (["--max-skipped", "3"], "--max-skipped 3 needs --on-error skip"),
        (["--output", "LOG"], "or --overwrite to replace it"),
    ],
)
def test_errors_name_the_flag(
    arguments: list[str], said: str, planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text("click,user\n1,a\n0,b\n")
    (tmp_path / "log.yaml").write_text("label: click\ncategorical: [user]\n")
    files = ["--schema", str(tmp_path / "log.yaml"), "--train", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        main(["preprocess", "tables", *files, *(word.replace("LOG", str(planted)) for word in arguments)])
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_a_table_that_is_wider_than_the_terminal_goes_on_below_with_all_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = [
        {"model": name, "seeds": 3, **{f"{sign}{score}": 0.12345 for score in ("auc", "logloss", "ne") for sign in ("", "± ")},
         "parameters": 1_234_567_890, "seconds": 12_345.6789}
        for name in ("DLRM", "DCNv2", "a-configuration")
    ]  # fmt: skip
    out = Terminal()
    print_table(rows, "a title", file=out)
    lines = [line.rstrip() for line in ESCAPES.sub("", out.getvalue()).splitlines()]
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line.strip() and "─" not in line] == [
        "a", "model", "DLRM", "DCNv2", "a-configuration", "model", "DLRM", "DCNv2", "a-configuration",
    ]  # fmt: skip
    assert sum(line.count("0.1235") for line in lines) == 18
    assert sum("1,234,567,890" in line and "12,345.6789" in line for line in lines) == 3


def test_a_text_that_is_wider_than_the_terminal_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = Terminal()
    print_table([{"column": "x" * 100, "rows": 123_456}], file=out)
    text = ESCAPES.sub("", out.getvalue())
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("x") == 100 and "123,456" in text
