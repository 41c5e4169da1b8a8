"""The one exception tree. Each class knows its exit code; the CLI maps nothing by hand.

Exit codes: 0 done, 1 defect in EdgeVision, 2 usage, 3 bad input, 4 accuracy budget not met,
5 not faster than the baseline on the target, 6 target or backend not available here.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class EdgeVisionError(Exception):
    """Base of every error that a user can cause or mend.

    Args:
        message: what is wrong, with expected and actual.
        hint: the way out, shown on a line of its own.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(EdgeVisionError):
    """A command or function was called with arguments that do not fit together."""

    exit_code = 2


class InputError(EdgeVisionError):
    """A model, data set, recipe or bundle that cannot be used as it is."""

    exit_code = 3


class ModelError(InputError):
    """The model or its weights cannot be used."""


class DataError(InputError):
    """The images or labels cannot be used."""


class RecipeError(InputError):
    """The recipe holds an unknown field or a value out of range."""


class BundleError(InputError):
    """The bundle is damaged, tampered with or of an unknown version."""


class StorageError(InputError):
    """A file cannot be read or written: no space, no permission."""


class AccuracyBudgetError(EdgeVisionError):
    """The best candidate loses more accuracy than the recipe allows."""

    exit_code = 4


class NotFasterError(EdgeVisionError):
    """The candidate is not faster than the FP32 baseline on the target, or not as fast as asked."""

    exit_code = 5


class UnavailableError(EdgeVisionError):
    """The target or backend cannot be used on this machine."""

    exit_code = 6


class LostConnectionError(UnavailableError):
    """A device was connected and is no more."""


class MissingExtraError(UnavailableError):
    """A package of an optional extra is not installed."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Message for an unknown name: the nearest known one, then all of them."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    return f"Unknown {kind} '{name}'.{guess} Known: {', '.join(names) or 'none'}."
