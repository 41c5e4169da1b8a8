"""The machines that builds and measurements run on."""

from __future__ import annotations

from edgevision.devices.local import environment, this_machine

__all__ = ["environment", "this_machine"]
