"""``profile`` from a network to its page: measured, kept, estimated, refused."""

from __future__ import annotations

import errno
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgevision.cli.app import run_command
from edgevision.errors import UnavailableError, UsageError
from edgevision.latency import cells
from edgevision.pipeline import network_times, timing
from edgevision.pipeline import profile as pipeline_profile
from edgevision.pipeline.profile import ProfileResult, profile
from edgevision.pipeline.store import held

NETWORK = """
from torch import nn

def net(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, num_classes),
    )
"""


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A factory of a small one; fewer and shorter measurements than deserve trust."""
    monkeypatch.setenv("EDGEVISION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(timing, "NETWORKS", 12)
    monkeypatch.setattr(cells, "_SECONDS", 0.001)
    (tmp_path / "small.py").write_text(NETWORK, encoding="utf-8")
    return f"{tmp_path / 'small.py'}:net"


class Text(HTMLParser):
    """The words of a page, and whether its tags are closed."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.words, self.open = "", list[str]()
        self.feed(page.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img"), "nothing is loaded or run"
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_measured_once_and_kept(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def run(name: str, fresh: bool = False, precision: str | None = None) -> ProfileResult:
        return profile(
            network,
            size=16,
            seconds=0.5,
            threads=1,
            maps=2,
            out=tmp_path / name,
            fresh=fresh,
            precision=precision,
            progress=lambda phase, done, total, note: told.append(phase),
        )

    first = run("first")
    assert first.times is not None
    assert first.precision == "int8"
    assert sorted(p.name for p in first.folder.glob("[!.]*")) == [
        "latency.json", "maps.json", "profile.html",
    ]  # fmt: skip
    stored = json.loads((first.folder / "latency.json").read_bytes())
    assert len(stored["kept"]) == len(stored["milliseconds"]) == 12
    assert stored["error"] <= stored["worst_error"] == pytest.approx(first.errors[1])
    maps = json.loads((first.folder / "maps.json").read_bytes())["maps"]
    assert [len(one["milliseconds"][0]) for one in maps] == [len(m.outs) for m in first.maps]
    words = Text(first.page).words
    for wanted in ("Measured", "Layers over channels", "Predicted against measured", "network_0"):
        assert wanted.replace("network_0", first.curves[0].name) in words
    assert "ESTIMATE" not in words

    told.clear()
    again = run("again")
    assert again.times == first.times, "the session is kept as a whole"
    assert not any(phase == "timing networks" for phase in told)
    assert all(one.kept == sum(map(len, one.milliseconds)) for one in again.maps)
    assert run("fresh", fresh=True).times.measured >= first.times.measured
    assert "timing networks" in told
    told.clear()
    assert run("float", precision="fp32").times.precision == "fp32"
    assert "timing networks" in told, "another precision has times of its own"

    told.clear()
    monkeypatch.setattr(network_times.metadata, "version", lambda name: f"{name} of tomorrow")
    run("later")
    assert "timing networks" in told, "another version may find other groups"


def test_a_target_that_is_not_at_hand_is_estimated_in_words(
    network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = run_command(
        ["profile", network, "--target", "jetson-orin-nano", "--size", "16", "--out", str(out)]
    )
    assert code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "ESTIMATE, nothing was measured" in told
    assert "Not timed here: its backend, tensorrt, runs no ONNX graphs" in told
    assert "4 GB module" in told, "a target may be several modules"
    found = json.loads((out / "estimate.json").read_bytes())
    assert found["estimate"] is True
    assert found["milliseconds"] > 0
    assert not (out / "latency.json").exists(), "no one can take it for times"
    words = Text(out / "profile.html").words
    assert words.count("ESTIMATE") >= 5
    assert "Measured" not in words
    assert "at the peak of: Jetson Orin Nano 4 GB module" in words
    assert "at least" not in words + told, "no bound"


def test_what_cannot_be_profiled_is_told(network: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is an ONNX graph"):
        profile("model.onnx", out=tmp_path / "a")
    for fields, message in (
        ({"seconds": 0.0}, "seconds must be above 0 .* got 0.0"),
        ({"seconds": float("nan")}, "got nan"),
        ({"maps": -1}, "maps must be at least 0, got -1"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"size": 0}, "size must be at least 1, got 0"),
    ):
        with pytest.raises(UsageError, match=message):
            profile(network, out=tmp_path / "a", **fields)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one of int8, fp32 for 'cpu', got 'fp16'"):
        profile(network, precision="fp16", out=tmp_path / "a")
    with pytest.raises(
        UnavailableError, match=r"'rtx' cannot be timed here: .*cannot be estim"
    ) as no:
        profile(network, target="rtx", size=16, out=tmp_path / "a")
    assert no.value.hint == "A target file of your own may give it, as 'peak'.", (
        "no device to go to"
    )
    assert not (tmp_path / "a").exists()


def test_two_runs_do_not_share_a_folder(network: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with (
        held(folder),
        pytest.raises(UsageError, match=f"Another edgevision is working in {folder}"),
    ):
        profile(network, target="jetson-orin-nano", size=16, out=folder)
    profile(network, target="jetson-orin-nano", size=16, out=folder)


def test_a_full_disk_leaves_the_last_profile_whole(
    network: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    command = ["profile", network, "--target", "jetson-orin-nano", "--size", "16"]
    assert run_command([*command, "--out", str(out), "--maps", "0"]) == 0
    assert json.loads((out / "maps.json").read_bytes())["maps"] == []
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_profile, "write_atomic", full)
        assert run_command([*command, "--out", str(out), "--precision", "fp32"]) == 3
    told = capsys.readouterr().err
    assert "No space is left on the disk" in told
    assert "Traceback" not in told
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    (out / "latency.json").write_text("of another target", encoding="utf-8")
    assert run_command([*command, "--out", str(out)]) == 0
    assert not (out / "latency.json").exists(), "the folder tells of one profile"


def test_a_file_where_the_folder_should_be_is_told(
    network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    command = ["profile", network, "--target", "jetson-orin-nano", "--size", "16"]
    assert run_command([*command, "--out", str(tmp_path / "out")]) == 3
    told = capsys.readouterr().err
    assert "A file is where a folder is needed" in told
    assert "Traceback" not in told
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"
