"""Tables (CSV, TSV, Parquet, TFRecord, frames) to a processed directory: one reader for each format."""

from keras_dlrm.data.tables.files import input_files as input_files
from keras_dlrm.data.tables.preprocessing import preprocess as preprocess
