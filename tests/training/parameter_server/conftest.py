"""Makes `children` of `tests/sharding` importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "sharding"))
