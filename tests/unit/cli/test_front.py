"""``compress --front`` as a user calls it: what is refused, the plan, and the table."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from edgevision.cli._front import fastest_line, front_table
from edgevision.cli.app import run_command
from tests.unit.benchmark.fronts import six

COMPRESS = ["compress", "plain-cnn", "--data", "fashion-mnist-mini", "--target", "cpu"]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([*COMPRESS, "--front", "1"], 2, "2 to 12 points, got 1"),
        ([*COMPRESS, "--front", "3", "--prune-macs", "0.4"], 2, "macs 0.4 is asked for"),
        ([*COMPRESS, "--front", "3", "--no-build"], 2, "nothing is measured"),
        ([*COMPRESS[:-1], "rtx", "--front", "3"], 6, "cannot be timed here"),
        (["compress", "plain-cnn", "--front", "3"], 3, "recipe.data is missing"),
        (["compress", "--recipe", "demo", "--front", "3"], 2, "macs 0.4 is asked for"),
    ],
)
def test_refusals_are_one_message_with_a_way_out(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    assert run_command([*arguments, "--out", str(tmp_path)]) == code
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert not list(tmp_path.iterdir())


def test_the_plan_names_the_fastest_point_and_no_other_speed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["compress", "--recipe", "demo", "--front", "3", "--prune-speedup", "6"]
    assert run_command([*arguments, "--dry-run"]) == 0
    text = capsys.readouterr().out
    plan = json.loads(text[text.index("{") :])
    assert plan["front"] == {"points": 3, "fastest": 6.0}
    assert plan["recipe"]["prune"] == {"fine_tune": {"epochs": 1}, "speedup": 6.0}
    assert plan["prune"]["speedup"] == "chosen for each point from measured times"


def test_the_table_shows_every_row_and_what_it_misses() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(front_table(six()))
    names = {row.name for row in six().rows}
    lines = {line.split()[0]: line for line in out.getvalue().splitlines() if line.strip()}
    assert names <= lines.keys()
    for part in ("92.61", "+1.39", "0.139", "6.76 (6.63-6.90)", "9.2", "beyond the budget,"):
        assert part in lines["front-5"]
    assert "…" not in out.getvalue()
    assert "slower than asked," in out.getvalue()


def test_the_last_line_names_the_bundle_to_take() -> None:
    assert fastest_line(six()).startswith("Fastest within 0.5 points of FP32: front-4, 6.96 times")
    none = six().model_copy(update={"fastest_within": None})
    assert "larger --max-accuracy-drop" in fastest_line(none)
