"""Why INT8 lost accuracy or gained no speed, in lines that name layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgevision.benchmark.report_schema import LayerRow

# Layers that only change how numbers are stored or ordered, by the backends' own words.
_CONVERSIONS = (
    "QuantizeLinear",
    "DequantizeLinear",
    "FakeQuantize",
    "Cast",
    "Convert",
    "reformat",
    "Reformat",
)
_REORDERS = ("ReorderInput", "ReorderOutput", "Transpose", "Reorder", "shuffle")
_MATRIX = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SHOWN = 3
_SATURATED = 0.001  # share of clipped values that is worth a word


def accuracy_reasons(rows: Iterable[LayerRow], count: int = 5) -> list[str]:
    """The layers that cost most accuracy: the noisiest first, one line each.

    Args:
        rows: of the INT8 network, with ``sqnr_db``.
        count: at most so many.
    """
    measured = [(row.sqnr_db, row) for row in rows if row.sqnr_db is not None]
    lines = []
    for sqnr, row in sorted(measured, key=lambda pair: pair[0])[:count]:
        facts = [f"{row.operator}, SQNR {sqnr:.1f} dB"]
        if row.amax is not None:
            facts.append(f"amax {row.amax:.3g}")
        if row.saturated is not None and row.saturated >= _SATURATED:
            facts.append(f"{100 * row.saturated:.2g} % of its inputs clipped")
        if row.trait:
            facts.append(row.trait)
        lines.append(f"Costs accuracy: '{row.name}' ({', '.join(facts)}).")
    return lines


def speed_reasons(rows: Sequence[LayerRow], baseline: Sequence[LayerRow] = ()) -> list[str]:
    """Why INT8 is slow, the reason that takes most time first; without times, in a fixed order.

    Args:
        rows: of the INT8 network: a row for each node, and those that the backend added.
        baseline: of the float network, to see which nodes got slower.
    """
    added = [row for row in rows if row.asked is None]
    converting = [row for row in added if row.operator in _CONVERSIONS]
    reordering = [row for row in added if row.operator in _REORDERS]
    refused = [row for row in rows if row.asked == "int8" and row.used not in ("", "int8")]
    blocking = _between_integers(rows)
    slower = _slower(rows, baseline)
    narrow = [row for row in slower if row.trait.endswith("input channels")]
    total = sum(row.time_ms or 0.0 for row in rows)
    found = [
        ("Precision not honoured: INT8 was asked for and another one used in", refused),
        ("Blocked fusion: float between INT8 layers, each converted to and fro:", blocking),
        ("Reformat: conversions between float and INT8:", converting),
        ("Reformat: tensors put into another order:", reordering),
        ("Depthwise, too little work to pay for INT8:", _with_trait(slower, "depthwise")),
        ("Too few channels to fill integer kernels:", narrow),
    ]
    told = {id(row) for _, group in found for row in group}
    rest = [row for row in slower if id(row) not in told]
    found.append(("Slower in INT8 than in float:", rest))
    lines = [(_time(group), _line(text, group, total)) for text, group in found if group]
    return [line for _, line in sorted(lines, key=lambda pair: -pair[0])]


def _between_integers(rows: Sequence[LayerRow]) -> list[LayerRow]:
    """Nodes left in float with an INT8 node on either side in the graph's order."""
    nodes = [row for row in rows if row.asked is not None]
    work = [i for i, row in enumerate(nodes) if row.used == "int8"]
    if not work:
        return []
    inside = nodes[work[0] : work[-1]]
    return [row for row in inside if row.asked == "float" and row.used not in ("", "int8")]


def _slower(rows: Iterable[LayerRow], baseline: Iterable[LayerRow]) -> list[LayerRow]:
    before = {row.name: row.time_ms for row in baseline if row.time_ms is not None}
    return [
        row
        for row in rows
        if row.used == "int8"
        and row.operator in _MATRIX
        and row.time_ms is not None
        and row.time_ms > before.get(row.name, float("inf"))
    ]


def _with_trait(rows: Iterable[LayerRow], trait: str) -> list[LayerRow]:
    return [row for row in rows if row.trait == trait]


def _time(rows: Iterable[LayerRow]) -> float:
    return sum(row.time_ms or 0.0 for row in rows)


def _line(text: str, rows: Sequence[LayerRow], total: float) -> str:
    ordered = sorted(rows, key=lambda row: -(row.time_ms or 0.0))
    names = ", ".join(f"'{row.name}'" for row in ordered[:_SHOWN])
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    share = f", {100 * _time(rows) / total:.0f} % of the time" if _time(rows) else ""
    return f"{text} {names}{more}{share}."
