"""Puts this folder on the import path, so that the tests import the exploit suite by the name that its separate
processes use.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
