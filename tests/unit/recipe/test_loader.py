from __future__ import annotations

from pathlib import Path

import pytest

from edgevision.errors import RecipeError
from edgevision.recipe import load_recipe, merge, preset_names

BASE = {"model": "cifar-resnet8", "data": "fashion-mnist-mini"}


def test_defaults_stand_where_nothing_is_said() -> None:
    recipe = load_recipe(None, BASE)
    assert recipe.target == "cpu"
    assert recipe.verify.max_accuracy_drop == 1.0
    assert recipe.quantize is not None
    assert recipe.prune is None


def test_flags_override_the_file_and_none_overrides_nothing(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("model: a\ndata: b\nverify: {max_accuracy_drop: 2.0, seconds: 3}\n")
    recipe = load_recipe(file, {"model": None, "verify": {"max_accuracy_drop": 0.5}})
    assert (recipe.model, recipe.verify.max_accuracy_drop, recipe.verify.seconds) == ("a", 0.5, 3)


def test_an_empty_section_of_flags_does_not_switch_pruning_on() -> None:
    assert load_recipe(None, {**BASE, "prune": {"macs": None}}).prune is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modell": "a", "data": "b"}, "Did you mean 'model'"),
        ({**BASE, "verify": {"sped_up": 2}}, "Did you mean 'speedup'"),
        (
            {**BASE, "verify": {"max_accuracy_drop": -1}},
            "recipe.verify.max_accuracy_drop: .*got -1",
        ),
        ({**BASE, "seed": "soon"}, "recipe.seed: .*got 'soon'"),
        ({"data": "b"}, "recipe.model is missing"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_field(values: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(None, values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "must hold a mapping of fields, got list"),
        ("model: [", "is not YAML"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
        ("", "got NoneType"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(file, {})


def test_a_missing_file_names_the_presets() -> None:
    with pytest.raises(RecipeError, match="No recipe file at nowhere") as caught:
        load_recipe("nowhere", {})
    assert "demo" in (caught.value.hint or "")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid(name: str) -> None:
    assert load_recipe(name, {}).model


def test_a_folder_of_a_preset_s_name_is_no_obstacle_but_a_file_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert load_recipe("demo", {}).data == "fashion-mnist-mini"
    (tmp_path / "demo").rmdir()
    (tmp_path / "demo").write_text("model: a\ndata: b\n")
    assert load_recipe("demo", {}).data == "b"


def test_merge_leaves_its_arguments_alone() -> None:
    base = {"a": {"b": 1}}
    assert merge(base, {"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}
    assert base == {"a": {"b": 1}}


def test_a_pruning_target_by_flag_takes_the_place_of_the_recipe_s(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("model: a\ndata: b\nprune: {macs: 0.4, steps: 2}\n")
    recipe = load_recipe(
        file, {"prune": {"params": 0.3}}, replaced={"prune": ("macs", "params", "pruning_ratio")}
    )
    assert recipe.prune == {"params": 0.3, "steps": 2}
