"""Synthetic click logs: random, planted, by locality, multi-hot, and twins of private logs."""

from keras_dlrm.data.synthetic.changes import ColdItems as ColdItems
from keras_dlrm.data.synthetic.changes import Drift as Drift
from keras_dlrm.data.synthetic.content import ItemContent as ItemContent
from keras_dlrm.data.synthetic.log import SyntheticClickLog as SyntheticClickLog
from keras_dlrm.data.synthetic.multi_hot import MultiHot as MultiHot
from keras_dlrm.data.synthetic.planted import PlantedClickLog as PlantedClickLog
from keras_dlrm.data.synthetic.random_log import RandomClickLog as RandomClickLog
from keras_dlrm.data.synthetic.random_log import TraceClickLog as TraceClickLog
from keras_dlrm.data.synthetic.stack_profile import StackProfile as StackProfile
from keras_dlrm.data.synthetic.stack_profile import stack_distances as stack_distances
from keras_dlrm.data.synthetic.trace import Trace as Trace
from keras_dlrm.data.synthetic.twin.comparison import comparison_png as comparison_png
from keras_dlrm.data.synthetic.twin.comparison import differences as differences
from keras_dlrm.data.synthetic.twin.measure import measure as measure
from keras_dlrm.data.synthetic.twin.statistics import Statistics as Statistics
from keras_dlrm.data.synthetic.twin.twin import Twin as Twin
from keras_dlrm.schema.criteo import CRITEO_KAGGLE_ROWS as CRITEO_KAGGLE_ROWS
from keras_dlrm.schema.criteo import MLPERF_V2_HOTNESS as MLPERF_V2_HOTNESS
from keras_dlrm.schema.criteo import MLPERF_V2_ROWS as MLPERF_V2_ROWS
from keras_dlrm.schema.criteo import criteo_shape as criteo_shape
from keras_dlrm.schema.criteo import mlperf_v2_shape as mlperf_v2_shape
