"""Graph files opened together, as runs that can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevision.backends import get_backend
from edgevision.backends.base import Arrays, Artifact, Backend
from edgevision.benchmark.sampling import Run

if TYPE_CHECKING:
    import numpy.typing as npt


@contextmanager
def opened_graphs(
    paths: Mapping[str, Path],
    backend: Backend,
    feeds: Mapping[str, npt.NDArray[Any]],
    threads: int | None,
) -> Iterator[dict[str, Run]]:
    """Within the block name → a call of the graph at that path on ``feeds``.

    Args:
        paths: files that ``backend`` opens as they are.
        feeds: the input that is timed, by name.
        threads: of the backend, None for its own choice.

    Raises:
        ModelError: the backend cannot run one of the graphs.
    """
    artifacts = {name: (Artifact(backend.name, path), feeds) for name, path in paths.items()}
    with opened_artifacts(artifacts, threads) as runs:
        yield runs


@contextmanager
def opened_artifacts(
    artifacts: Mapping[str, tuple[Artifact, Arrays]], threads: int | None
) -> Iterator[dict[str, Run]]:
    """The same for artifacts of any backends, each with its inputs."""
    with ExitStack() as stack:
        runs: dict[str, Run] = {}
        for name, (artifact, feeds) in artifacts.items():
            opened = get_backend(artifact.backend).open(artifact, threads=threads)
            runs[name] = partial(stack.enter_context(opened).infer, feeds)
        yield runs
