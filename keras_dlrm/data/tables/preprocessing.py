"""`kd.data.tables.preprocess`: CSV, TSV, Parquet and TFRecord tables to a processed directory."""

import os
from collections.abc import Mapping

from keras_dlrm.data.jobs.job import Progress
from keras_dlrm.data.jobs.staging import staging_directory
from keras_dlrm.data.packed.format import SPLITS
from keras_dlrm.data.packed.packed import ClickLog
from keras_dlrm.data.packed.writer import check_output, real_output
from keras_dlrm.data.preprocessor.bad_rows import BadRows
from keras_dlrm.data.preprocessor.csv_dialect import CsvDialect
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.preprocessor.raw_columns import is_table
from keras_dlrm.data.preprocessor.vocabulary import HEX
from keras_dlrm.data.tables.files import Inputs, check_columns, table_files
from keras_dlrm.data.tables.files import input_files as input_files
from keras_dlrm.data.tables.job import TableJob
from keras_dlrm.data.tables.parts import RANDOM
from keras_dlrm.schema.schema import Schema
from keras_dlrm.schema.time_parts import raw_names, sources
from keras_dlrm.support.arguments import integer, worker_count

VOCABULARY = ("frozen", "grown")


def preprocess(
    schema: Schema | None,
    train: Inputs,
    valid: Inputs | None = None,
    test: Inputs | None = None,
    *,
    output: str | os.PathLike[str],
    split: Mapping[str, float] | None = None,
    split_by: str | None = None,
    seed: int = 0,
    preprocessor: Preprocessor | str | os.PathLike[str] | None = None,
    vocabulary: str | None = None,
    csv: CsvDialect | None = None,
    on_error: str = "raise",
    max_skipped: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    reuse: bool = False,
    progress: Progress | None = None,
) -> ClickLog:
    """Preprocess tables into a directory for `kd.data.open`.

    Vocabularies and statistics are fitted on the training rows only. Rows keep the order of the files: a log that is
    ordered by time stays so, and a `split` by fractions then trains on the past and tests on the future.

    Columns are found by name; others are ignored. One that a file does not have is taken from its folders' names, as Hive
    and Spark write them: `day=2024-01-01/part-0.parquet`. An empty field is a missing value. In CSV a multi-hot column is a
    string of values separated by `|`, in Parquet a list, in TFRecord (of `tf.train.Example`) a feature of several values.
    CSV and TSV are UTF-8 with a header; a field that begins with a double quote ends with one, two inside are one.

    The input is read once, in blocks; staging alongside the output needs `8 + 4·n_dense + 4·W` bytes of disk per row, and 8
    more for each dense column that is fitted and for `split_by`. Memory holds the distinct values of the fitted tables,
    their bytes and up to 100 more each while the vocabularies are made, besides some hundred megabytes of blocks. A call
    that was stopped, killed or out of disk resumes where it stopped when it is made again with the same arguments, and
    gives the same files, to the byte; other arguments or changed inputs start again.

    Args:
        schema: The columns. Sparse columns without a `vocabulary_size` get a fitted vocabulary. `None` with a
            `preprocessor`, which has one.
        train: Path, folder, glob pattern (of what does not exist literally), or a list of these: `.csv`, `.tsv`,
            `.tfrecord`, each also `.gz`, or `.parquet`. Several files are read one after the other; those of a folder or a
            glob in the order of their names, numbers in these by their values: `day_2.csv` before `day_10.csv`. Empty ones
            hold no rows. Frames are taken, too: of pandas, Polars or Arrow, and mappings of named columns, or of these
            parts: `{"train": frame, "test": frame}`.
        valid: The same, for the validation split.
        test: The same, for the test split.
        output: Directory to write: complete or absent.
        split: Instead of `valid` and `test`: fractions that cut `train` in file order, as
            `{"train": 0.8, "valid": 0.1, "test": 0.1}`.
        split_by: With a `split`, what it cuts by instead of the order of the files: a column of times (dates, ISO 8601
            texts or numbers, in the schema or not), the earliest rows into `train`; or `"random"`. Rows of one time stay
            together. Within a part rows keep the order of the files.
        seed: Of `split_by="random"`, which goes by a hash of it and the row's number.
        preprocessor: A fitted one, or the directory that holds it, for new days of a log: nothing is fitted.
        vocabulary: With a `preprocessor`. `"frozen"`, the default: unseen values go to the OOV row. `"grown"`: those of
            the training part get new rows; ids of known values stay. See `Preprocessor.grow`.
        csv: How text files are written, where that is not as above; files of unknown endings are text then. That of the
            `preprocessor` by default, which keeps it: `predict_files` reads the same way.
        on_error: `"raise"`: an error at the first row that cannot be used. `"skip"`: such rows are left out, counted
            and kept as examples in the manifest. The output is that of the files without them.
        max_skipped: With `"skip"`, an error when there are more; `None` for no limit.
        workers: Threads; as many as there are processors by default. The result is the same for any number.
        overwrite: Whether a processed directory at `output` may be replaced.
        reuse: Whether one at `output` that the same call wrote is opened instead: a program that is started again goes on
            from there.
        progress: Called as `progress(rows_done, rows_total, stage)`, with the stages `"read"` and `"write"`. While
            files are read, the total is an estimate.

    Returns:
        The written `ClickLog`.

    Raises:
        FileNotFoundError: an input does not exist.
        FileExistsError: `output` exists, and neither `overwrite` nor `reuse` allows it.
        OSError: the disk is full, or an input cannot be read, such as a named pipe.
        KeyError: a column is missing.
        ValueError, TypeError: a value cannot be used; the message names file, column and row (in CSV and TSV the line,
            counted from 1; in other files the row, counted from 0).

    Example:

    ```python
    schema = kd.Schema(dense=[kd.Dense("price", "log1p_standardize")], categorical=[kd.Categorical("city")])
    data = kd.data.tables.preprocess(schema, "log-*.parquet", output="processed", split={"train": 0.9, "test": 0.1})
    ```
    """
    schema, given = _rules(schema, preprocessor, vocabulary)
    if schema.weighted:
        raise ValueError("tables: a weighted=True schema names no column of weights; write batches with PackedWriter.")
    threads = worker_count("tables", workers)
    bad = BadRows(on_error, max_skipped)
    if isinstance(train, Mapping) and train and set(train) <= set(SPLITS) and all(map(is_table, train.values())):
        if valid is not None or test is not None or "train" not in train:
            raise ValueError(f"tables: a mapping of parts has {list(train)}; it must have 'train', and be given alone.")
        train, valid, test = (train.get(name) for name in SPLITS)
    if split is not None:
        if valid is not None or test is not None:
            raise ValueError("tables: give either split=… or valid and test files, not both.")
        _check_split(split)
    _check_split_by(split_by, split, schema)
    seed = integer("tables", "seed", seed, 0)
    time = None if split_by in (None, RANDOM) else split_by
    place = real_output(output)
    if not reuse and not staging_directory(place).exists():
        check_output(place, overwrite)
    csv = csv if csv is not None or given is None else given.csv
    parts = {"train": train, "valid": valid, "test": test}
    names = [*raw_names(schema), *schema.row_names]
    names += [] if time is None or time in names else [time]
    times = sources(schema) if time is None else [time, *sources(schema)]
    files = [
        (name, file)
        for name, inputs in parts.items()
        if inputs is not None
        for file in table_files(inputs, names, csv, times)
    ]
    check_columns([file for _, file in files], names)
    job = TableJob(files, schema, given, vocabulary == "grown", csv, split, split_by, seed, bad, progress)
    return job.run(place, threads, overwrite, reuse)


def _rules(
    schema: Schema | None, preprocessor: Preprocessor | str | os.PathLike[str] | None, vocabulary: str | None
) -> tuple[Schema, Preprocessor | None]:
    """The schema, and the preprocessor if one is given."""
    if preprocessor is None:
        if vocabulary is not None:
            raise ValueError(f"tables: vocabulary={vocabulary!r} needs a preprocessor; without one it is fitted.")
        if schema is None:
            raise ValueError("tables: give a schema, or a preprocessor, which has one.")
        return schema, None
    if vocabulary not in (None, *VOCABULARY):
        raise ValueError(f"tables: vocabulary={vocabulary!r} is unknown; use one of {VOCABULARY}.")
    if not isinstance(preprocessor, Preprocessor):
        preprocessor = Preprocessor.load(preprocessor)
    if schema is not None:
        for what in ("dense_names", "categorical_names", "label", "sample_weight", "soft_labels"):
            ours, its = getattr(schema, what), getattr(preprocessor.schema, what)
            if ours != its:
                raise ValueError(
                    f"tables: the schema's {what} are {ours!r}, the preprocessor's {its!r}; leave the schema out (None)."
                )
    for name, known in preprocessor.vocabularies.items() if vocabulary == "grown" else ():
        if known.keys.kind == HEX:
            raise ValueError(f"tables: vocabulary='grown' cannot grow the hexadecimal table {name!r}.")
    return preprocessor.schema, preprocessor


def _check_split_by(split_by: str | None, split: Mapping[str, float] | None, schema: Schema) -> None:
    if split_by is None:
        return
    if not isinstance(split_by, str):
        raise TypeError(f"tables: split_by={split_by!r} must be the name of a column, or 'random'.")
    if split is None:
        raise ValueError(f"tables: split_by={split_by!r} needs fractions, split={{'train': 0.8, 'valid': 0.1, 'test': 0.1}}.")
    if split_by in schema.row_names:
        raise ValueError(f"tables: split_by={split_by!r} is the label or the weight of rows; give a column of times.")


def _check_split(split: Mapping[str, float]) -> None:
    if not isinstance(split, Mapping):
        raise TypeError(f"tables: split={split!r} must be a mapping, such as {{'train': 0.8, 'valid': 0.1, 'test': 0.1}}.")
    for name, share in split.items():
        if name not in SPLITS:
            raise ValueError(f"tables: split names {name!r}; the splits are {SPLITS}.")
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"tables: split[{name!r}]={share} must be a fraction between 0 and 1.")
    if "train" not in split or abs(sum(split.values()) - 1.0) > 1e-6:
        raise ValueError(f"tables: split={dict(split)} must have 'train' and add up to 1.")
