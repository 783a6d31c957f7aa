# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The package's own configs, found from any folder."""

from pathlib import Path

import pytest

import isdfine
from isdfine.core.config.shipped import SHIPPED, find_config
from isdfine.core.errors import ConfigError

S_COCO = SHIPPED / "dfine" / "dfine_hgnetv2_s_coco.yml"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "isdfine:dfine/dfine_hgnetv2_s_coco.yml",
        "isdfine:dfine_hgnetv2_s_coco.yml",
        "isdfine:configs/dfine/dfine_hgnetv2_s_coco.yml",
        "configs/dfine/dfine_hgnetv2_s_coco.yml",
        "./configs/dfine/dfine_hgnetv2_s_coco.yml",
        "dfine/dfine_hgnetv2_s_coco.yml",
        "dfine_hgnetv2_s_coco.yml",
        Path("dfine_hgnetv2_s_coco.yml"),
    ],
)
def test_names_of_a_config(name: str | Path) -> None:
    assert find_config(name) == S_COCO


def test_a_file_of_the_working_folder_comes_first(tmp_path: Path) -> None:
    own = tmp_path / "configs" / "dfine" / "dfine_hgnetv2_s_coco.yml"
    own.parent.mkdir(parents=True)
    own.write_text("")
    assert find_config("configs/dfine/dfine_hgnetv2_s_coco.yml").samefile(own)
    assert find_config("isdfine:dfine/dfine_hgnetv2_s_coco.yml") == S_COCO
    assert find_config("dfine_hgnetv2_s_coco.yml", own.parent) == own
    assert find_config("dfine_hgnetv2_s_coco.yml") == S_COCO


@pytest.mark.parametrize("prefix", ["", "isdfine:"])
def test_a_name_that_several_configs_have(prefix: str) -> None:
    with pytest.raises(ConfigError) as error:
        find_config(f"{prefix}dfine_hgnetv2_s_custom.yml")
    assert str(error.value) == (
        f"{prefix}dfine_hgnetv2_s_custom.yml: several configs have this name: give one of "
        "isdfine:dfine/custom/dfine_hgnetv2_s_custom.yml, isdfine:dfine/custom/small/dfine_hgnetv2_s_custom.yml"
    )


def test_what_is_nowhere() -> None:
    with pytest.raises(ConfigError, match=r"no such config, did you mean isdfine:dfine_hgnetv2_s_coco\.yml\?$"):
        find_config("isdfine:dfine/dfine_hgnetv2_s_cocoo.yml")
    with pytest.raises(ConfigError, match=r"isdfine:x: the package has no such config: its configs are in .*configs$"):
        find_config("isdfine:x")
    for unknown in ("mine.yml", "../dfine_hgnetv2_s_coco.yml", "/dfine_hgnetv2_s_coco.yml", ""):
        assert find_config(unknown) == Path(unknown)
    with pytest.raises(ConfigError, match=r"^mine\.yml: no such file: check the path$"):
        isdfine.load_config("mine.yml")
    for near in ("dfine_hgnetv2_s_coco", "dfine/dfine_hgnetv2_s_cocoo.yml"):
        with pytest.raises(ConfigError, match=r"check the path; the package has isdfine:dfine_hgnetv2_s_coco\.yml$"):
            isdfine.load_config(near)


def test_own_files_build_on_them(tmp_path: Path) -> None:
    plain = isdfine.load_config("isdfine:dfine/dfine_hgnetv2_n_coco.yml")
    (tmp_path / "mine.yml").write_text("__include__: [isdfine:dfine/dfine_hgnetv2_n_coco.yml]\nepochs: 3\n")
    (tmp_path / "bare.yml").write_text("__include__: [dfine_hgnetv2_n_coco.yml]\nepochs: 3\n")
    mine = isdfine.load_config("mine.yml")
    assert mine.data == isdfine.load_config("bare.yml").data
    assert mine.get("epoches") == 3
    assert mine.data["DFINETransformer"] == plain.data["DFINETransformer"]


def test_file_names_are_short_names() -> None:
    """Few are ambiguous, and those are known: an added file must not take a name that people use."""
    files = [file.relative_to(SHIPPED) for file in SHIPPED.rglob("*.yml") if "include" not in file.parts]
    doubled = {file.name for file in files if sum(other.name == file.name for other in files) > 1}
    assert doubled == {"dfine_hgnetv2_n_custom.yml", "dfine_hgnetv2_s_custom.yml"}
