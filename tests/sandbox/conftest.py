"""Makes the exploit suite importable: its programs also run in separate processes, as other users."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
