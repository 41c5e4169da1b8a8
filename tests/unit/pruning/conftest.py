from __future__ import annotations

import sys
from pathlib import Path

# The networks that these tests share lie beside them.
sys.path.insert(0, str(Path(__file__).parent))
