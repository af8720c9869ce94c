"""Lets the tests of tables share `table_logs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
