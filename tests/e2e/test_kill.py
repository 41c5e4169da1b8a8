from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.small import without_times, write_recipe

CHAINS, KILLS = 5, 4
COMPRESS = (sys.executable, "-m", "edgevision", "compress", "--recipe")


def start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMPRESS, str(recipe), "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_kills_change_nothing_but_the_times(tmp_path: Path, image_folder: Path) -> None:
    """Five runs, each killed at four random moments and then left to finish."""
    # Regions are chosen by measured times, which differ from run to run.
    recipe = write_recipe(tmp_path, image_folder, quantize={"images": 32, "regions": False})
    begin = time.monotonic()
    whole = start(recipe, tmp_path / "whole")
    _, told = whole.communicate()
    assert whole.returncode == 0, told
    lasted = time.monotonic() - begin
    expected = without_times(tmp_path / "whole" / "bundle")
    moments = random.Random(0)
    for chain in range(CHAINS):
        out = tmp_path / f"chain{chain}"
        killed = 0
        while killed < KILLS:
            begin = time.monotonic()
            process = start(recipe, out)
            try:
                process.wait(moments.uniform(0.02, 0.7) * lasted)
                # It ended before its moment came, as the machine got quicker: from the start again.
                lasted = min(lasted, time.monotonic() - begin)
                shutil.rmtree(out)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                killed += 1
            process.communicate()
        last = start(recipe, out)
        _, told = last.communicate()
        assert last.returncode == 0, told
        got = without_times(out / "bundle")
        assert got.keys() == expected.keys()
        for name, content in expected.items():
            assert got[name] == content, f"chain {chain}: {name} differs"
