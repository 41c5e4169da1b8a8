"""What ``edgevision compress --front`` shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from edgevision.benchmark.front import Front
    from edgevision.recipe import Recipe


def run_front(
    recipe: Recipe, points: int, console: Console, *, out: Path | None, dry_run: bool
) -> None:
    """Make the front, or show the plan of it."""
    from edgevision.cli._progress import Phases
    from edgevision.pipeline.front import compress_front, prepare_front

    with Phases(console) as progress:
        if dry_run:
            plan = prepare_front(recipe, points, progress).plan()
            plan["front"] = {"points": points, "fastest": (recipe.prune or {}).get("speedup")}
            plan["recipe"]["prune"] = recipe.prune
            plan["prune"]["speedup"] = "chosen for each point from measured times"
            console.print_json(json.dumps(plan))
            return
        result = compress_front(recipe, points, out=out, progress=progress)
    console.print(front_table(result.front))
    console.print(fastest_line(result.front), highlight=False, soft_wrap=True)
    folder = result.page.parent
    bundles = f"{folder / 'front-1'} to {folder / f'front-{points}'}"
    console.print(f"Bundles: {bundles}", highlight=False, soft_wrap=True)
    for line in earlier_lines(result.earlier):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"Page: {result.page}", highlight=False, soft_wrap=True)


def front_table(front: Front) -> Table:
    """All rows, the fastest within the budget in bold; sizes and MACs are on the page.

    Fits 80 columns, so what front-1 is has no column of its own.
    """
    table = Table(
        title=f"{front.images} validation images, target {front.target}",
        title_justify="left",
        caption="front-1 is INT8 alone, the others are pruned as well.",
        caption_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for name in (f"{front.metric} %", "drop", "p50 ms", "times FP32", "asked"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for row in front.rows:
        table.add_row(
            row.name,
            f"{row.accuracy:.2f}",
            f"{row.drop:+.2f}",
            f"{row.latency_p50_ms:.3f}",
            f"{row.speedup:.2f} ({row.low:.2f}-{row.high:.2f})",
            "" if row.asked is None else f"{row.asked:g}",
            row.note,
            style="bold" if row.name == front.fastest_within else None,
        )
    return table


def earlier_lines(earlier: Sequence[Path]) -> list[str]:
    """What lies in the folder and is no part of the front; none where nothing does."""
    if not earlier:
        return []
    names = ", ".join(path.name for path in earlier)
    return [
        f"Kept from an earlier, larger front, no part of this one: {names}. Remove them, or give "
        "each front an --out of its own."
    ]


def fastest_line(front: Front) -> str:
    """Which point to take."""
    if front.fastest_within is None:
        return (
            f"No point is within {front.budget:g} points of FP32 and fast enough: fine-tune "
            "longer, or allow a larger --max-accuracy-drop."
        )
    row = next(row for row in front.rows if row.name == front.fastest_within)
    return (
        f"Fastest within {front.budget:g} points of FP32: {row.name}, {row.speedup:.2f} times its "
        f"speed, drop {row.drop:.2f}."
    )
