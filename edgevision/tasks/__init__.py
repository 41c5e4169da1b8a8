"""Tasks, by name. A new one is its file and one line here."""

from __future__ import annotations

from edgevision.registry import Registry
from edgevision.tasks.base import Task

TASKS: Registry[type[Task]] = Registry("task")
TASKS.add("classification", "edgevision.tasks.classification:Classification")


def get_task(name: str) -> Task:
    """The task called ``name``.

    Raises:
        UsageError: there is none of that name.
    """
    return TASKS.get(name)()
