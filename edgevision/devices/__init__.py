"""The machines that builds and measurements run on."""

from __future__ import annotations

from edgevision.devices.local import environment, package_versions, this_machine

__all__ = ["environment", "package_versions", "this_machine"]
