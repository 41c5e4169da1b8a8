"""The plain HTML page: one file, no script, nothing loaded from elsewhere, every value escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

_CSS = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")


def page(title: str, sections: Iterable[str], css: str = "") -> str:
    """The page of ``sections``, which are markup; empty ones are left out. ``css`` comes on top."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_CSS}{css}</style></head><body><main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def tile(value: str, label: str, detail: str) -> str:
    """A figure in large type with what it is and where it comes from."""
    return (
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span>'
        f"<small>{escape(detail)}</small></div>"
    )


def section(title: str, body: str) -> str:
    """A card with a heading; ``body`` is markup."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def facts(title: str, values: Mapping[str, Any]) -> str:
    """A card of nested plain values; empty where there are none."""
    return section(title, pairs(values)) if values else ""


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = ()
) -> str:
    """Plain texts as a table; the columns ``numbers`` are set flush right."""
    right = frozenset(numbers)

    def cell(tag: str, column: int, text: str) -> str:
        return f"<{tag}{' class=n' if column in right else ''}>{escape(text)}</{tag}>"

    top = "".join(cell("th", column, text) for column, text in enumerate(head))
    body = "".join(
        "<tr>" + "".join(cell("td", column, text) for column, text in enumerate(row)) + "</tr>"
        for row in rows
    )
    return (
        f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def pairs(values: Mapping[str, Any]) -> str:
    """Nested plain values as a definition list."""
    items = "".join(
        f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd>{_value(value)}</dd>"
        for key, value in values.items()
        if value not in (None, {}, [], ())
    )
    return f"<dl>{items}</dl>" if items else ""


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return pairs(value)
    if isinstance(value, (list, tuple)):
        return escape(", ".join(map(str, value)))
    if isinstance(value, float):
        return escape(f"{value:.6g}")
    return escape(str(value))


def number(value: float | None, digits: int = 3) -> str:
    """Empty for None."""
    return "" if value is None else f"{value:.{digits}f}"


def in_bytes(count: int) -> str:
    """A size in B, kB, MB or GB (powers of ten)."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{count} B" if unit == "B" else f"{value:.2f} {unit}"
