"""Named components that load on first use: one file and one registry line each."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any, Generic, TypeVar

from edgevision.errors import UsageError, unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps a name to ``"module:attribute"`` and imports it when it is asked for.

    Example:
        >>> BACKENDS: Registry[type[Backend]] = Registry("backend")
        >>> BACKENDS.add("onnxruntime", "edgevision.backends.onnxruntime:OnnxRuntimeBackend")
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._places: dict[str, str] = {}

    def add(self, name: str, place: str) -> None:
        """Register ``place`` ("module:attribute") under ``name``.

        Raises:
            ValueError: the name is taken, or ``place`` has no colon.
        """
        if ":" not in place:
            raise ValueError(f"place must be 'module:attribute', got '{place}'")
        if name in self._places:
            raise ValueError(f"{self.kind} '{name}' is already registered at {self._places[name]}")
        self._places[name] = place

    def remove(self, name: str) -> None:
        """Forget ``name``; for tests and plug-ins that undo themselves."""
        del self._places[name]

    def get(self, name: str) -> T:
        """The component called ``name``.

        Raises:
            UsageError: nothing is registered under that name; the message lists what is.
        """
        if name not in self._places:
            raise UsageError(unknown_name(self.kind, name, self._places))
        module, _, attribute = self._places[name].partition(":")
        component: Any = getattr(import_module(module), attribute)
        return component  # type: ignore[no-any-return]

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
