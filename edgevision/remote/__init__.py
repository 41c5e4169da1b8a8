"""Devices at the other end of an SSH connection: builds and measurements run there."""

from __future__ import annotations

from edgevision.remote.address import Address
from edgevision.remote.device import RemoteDevice, connect

__all__ = ["Address", "RemoteDevice", "connect"]
