"""Synthetic click logs: random, planted (their best possible scores are known), of a given locality, multi-hot, and the
twin of a private log.
"""

from keras_dlrm.data.synthetic.cold_items import ColdItems as ColdItems
from keras_dlrm.data.synthetic.comparison import comparison_png as comparison_png
from keras_dlrm.data.synthetic.comparison import differences as differences
from keras_dlrm.data.synthetic.drift import Drift as Drift
from keras_dlrm.data.synthetic.log import SyntheticClickLog as SyntheticClickLog
from keras_dlrm.data.synthetic.measure import measure as measure
from keras_dlrm.data.synthetic.multi_hot import MultiHot as MultiHot
from keras_dlrm.data.synthetic.planted import PlantedClickLog as PlantedClickLog
from keras_dlrm.data.synthetic.random_log import RandomClickLog as RandomClickLog
from keras_dlrm.data.synthetic.shapes import CRITEO_KAGGLE_ROWS as CRITEO_KAGGLE_ROWS
from keras_dlrm.data.synthetic.shapes import MLPERF_V2_HOTNESS as MLPERF_V2_HOTNESS
from keras_dlrm.data.synthetic.shapes import MLPERF_V2_ROWS as MLPERF_V2_ROWS
from keras_dlrm.data.synthetic.shapes import criteo_shape as criteo_shape
from keras_dlrm.data.synthetic.shapes import mlperf_v2_shape as mlperf_v2_shape
from keras_dlrm.data.synthetic.stack_distances import stack_distances as stack_distances
from keras_dlrm.data.synthetic.stack_profile import StackProfile as StackProfile
from keras_dlrm.data.synthetic.statistics import Statistics as Statistics
from keras_dlrm.data.synthetic.trace import Trace as Trace
from keras_dlrm.data.synthetic.trace_log import TraceClickLog as TraceClickLog
from keras_dlrm.data.synthetic.twin import Twin as Twin
