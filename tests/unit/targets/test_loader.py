from __future__ import annotations

from pathlib import Path

import pytest

from edgevision.backends import BACKENDS
from edgevision.errors import RecipeError, UsageError
from edgevision.targets import load_target, target_names
from edgevision.targets.schema import Target
from edgevision.types import DeviceInfo

EXPECTED = [
    "cpu",
    "cpu-openvino",
    "gpu",
    "jetson-agx-orin",
    "jetson-agx-xavier",
    "jetson-orin-nano",
    "jetson-orin-nx",
    "jetson-thor",
    "jetson-xavier-nx",
    "rtx",
]
JETSONS = [name for name in EXPECTED if name.startswith("jetson")]
MINE = """
title: my board
backend: onnxruntime
builds: here
scheme: x86-vnni
opset: 18
round_to: 4
"""


def machine(*features: str) -> DeviceInfo:
    return DeviceInfo("a CPU", "x86_64", "Linux", 4, 8192, features)


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "board.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_targets_that_ship() -> None:
    assert set(EXPECTED) <= set(target_names())


@pytest.mark.parametrize("name", target_names())
def test_every_target_is_whole(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.backend in BACKENDS
    assert Target.model_validate(target.model_dump(mode="json")) == target


@pytest.mark.parametrize("name", JETSONS)
def test_every_jetson_and_jetpack(name: str) -> None:
    for jetpack in load_target(name).jetpacks:
        target = load_target(f"{name}@{jetpack.version}")
        assert target.jetpack == jetpack
        assert target.reference == f"{name}@{jetpack.version}"
        assert target.opset == min(18, jetpack.opset)
        assert target.backend == "tensorrt"
        assert target.builds == "on-device"


def test_facts_of_the_modules() -> None:
    nano = load_target("jetson-orin-nano")
    assert nano.reference == "jetson-orin-nano@6.2"
    assert nano.jetpack is not None
    assert (nano.jetpack.tensorrt, nano.opset, nano.dla_cores) == ("10.3", 18, 0)
    assert load_target("jetson-orin-nano@5.1").opset == 17
    assert load_target("jetson-agx-orin").dla_cores == 2
    assert load_target("jetson-thor").compute_capabilities == ("110",)
    assert load_target("rtx").compute_capabilities == ("80", "86", "89", "120", "121")


@pytest.mark.parametrize(
    ("features", "scheme", "reason"),
    [
        (("avx2", "avx512_vnni"), "x86-vnni", "avx512_vnni"),
        (("avx2", "avx_vnni"), "x86-vnni", "avx_vnni"),
        (("avx2", "avx512f"), "x86", "avx2"),
        (("asimd", "asimddp", "i8mm"), "arm", "asimddp"),
    ],
)
def test_the_features_of_a_cpu_choose_its_scheme(
    features: tuple[str, ...], scheme: str, reason: str
) -> None:
    target = load_target("cpu", machine=machine(*features))
    assert target.scheme == scheme
    assert target.scheme_reason.endswith(f"has {reason}")


@pytest.mark.parametrize(
    ("features", "scheme"),
    [(("avx2", "avx512_vnni"), "openvino"), (("avx_vnni",), "openvino"), (("avx2",), None)],
)
def test_openvino_is_given_8_bits_only_where_products_do_not_saturate(
    features: tuple[str, ...], scheme: str | None
) -> None:
    assert load_target("cpu-openvino", machine=machine(*features)).scheme == scheme


@pytest.mark.parametrize("feature", ["sse4_1", "asimd"])
def test_a_cpu_with_none_of_them_stays_in_float_and_says_why(feature: str) -> None:
    target = load_target("cpu", machine=machine(feature))
    assert target.scheme is None
    assert "none of avx512_vnni, avx_vnni, avx2, asimddp" in target.scheme_reason
    assert "float" in target.scheme_reason


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("jetson-orin-nanno", "'jetson-orin-nano'"),
        ("rxt", "'rtx'"),
        ("", "Known: cpu"),
        ("jetson-thor@6.2", "Known: 7.0, 7.1, 7.2"),
        ("jetson-orin-nano@", "JetPack"),
        ("cpu@6.2", "no JetPack"),
        ("nowhere/board.yaml", "No target file"),
        ("../data/cpu", "No target file"),
    ],
)
def test_an_unknown_target_is_told_with_the_nearest(name: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_target(name)
    assert told in caught.value.message


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    target = load_target(written(tmp_path, MINE))
    assert (target.name, target.round_to, target.scheme) == ("board", 4, "x86-vnni")


def test_a_file_may_name_jetpacks(tmp_path: Path) -> None:
    text = MINE + 'jetpacks: ["6.0", "6.2"]\ndefault_jetpack: "6.0"\n'
    assert load_target(written(tmp_path, text)).opset == 17


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (MINE + "round_too: 8\n", "Did you mean 'round_to'?"),
        (MINE.replace("round_to: 4", "round_to: 0"), "round_to"),
        (MINE.replace("opset: 18", "opset: 99"), "opset"),
        (MINE.replace("builds: here", "builds: there"), "builds"),
        (MINE.replace("title: my board\n", ""), "title"),
        (MINE + 'jetpacks: ["6.2"]\n', "default_jetpack"),
        (MINE + 'jetpacks: ["6.9"]\ndefault_jetpack: "6.9"\n', "JetPack '6.9'"),
        (MINE + 'jetpacks: ["6.2"]\ndefault_jetpack: "6.0"\n', "6.0 is not one of"),
        ("- a\n- b\n", "fields and values, got list"),
        ("", "fields and values"),
        ("a: [", "not YAML"),
        ("a: !!python/object/apply:os.system [id]\n", "not YAML"),
        ("a: '" + "x" * 70_000 + "'", "larger than 64 KB"),
    ],
)
def test_a_bad_file_is_refused_with_the_field(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_target(written(tmp_path, text))
    assert told in caught.value.message
    assert "board.yaml" in caught.value.message


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "board.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(RecipeError, match=r"board\.yaml is not YAML"):
        load_target(str(path))


def test_a_new_target_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgevision.targets import loader

    (tmp_path / "toy.yaml").write_text(MINE, encoding="utf-8")
    monkeypatch.setattr(loader, "DATA", tmp_path)
    assert loader.target_names() == ["toy"]
    assert loader.load_target("toy").title == "my board"
