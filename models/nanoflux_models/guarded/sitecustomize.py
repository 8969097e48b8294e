"""Installs the network guard at the start of every Python process that has this folder on its module path.

Child processes inherit the path, and with it the guard.
"""

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("nanoflux_guard", Path(__file__).parents[1] / "guard.py")
assert _spec is not None and _spec.loader is not None
_guard = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _guard
_spec.loader.exec_module(_guard)
_guard.install()
