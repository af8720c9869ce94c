"""Lets the tests of conversions share `peers`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
