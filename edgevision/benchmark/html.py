"""Pieces of the plain HTML pages: one file, no script, nothing loaded, every value escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

_CSS = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")


def page(title: str, sections: Iterable[str], css: str = "") -> str:
    """A whole page of ``sections``, those that are empty left out; ``css`` comes on top."""
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
    """A figure with what it is."""
    return (
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span>'
        f"<small>{escape(detail)}</small></div>"
    )


def facts(title: str, values: Mapping[str, Any]) -> str:
    """A section of nested plain values; empty where there are none."""
    return section(title, pairs(values)) if values else ""


def section(title: str, body: str) -> str:
    """A part of the page; ``body`` is markup."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = ()
) -> str:
    """A table of texts; ``numbers`` are the columns that stand to the right."""
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
