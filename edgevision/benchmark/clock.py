"""The one clock: monotonic, in nanoseconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeAlias  # novermin

Clock: TypeAlias = "Callable[[], int]"

now_ns: Clock = time.perf_counter_ns
