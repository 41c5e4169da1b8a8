"""The one clock: monotonic, in nanoseconds."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]

now_ns: Clock = time.perf_counter_ns
