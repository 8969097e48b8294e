"""Read by every Python that is started with this folder on its path, whatever else it has: guards it from the start.

Its children inherit the path and so the guard, however they are started.
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
