# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch

from golden_cases import fill, load_golden, load_json
from isdfine.core.errors import CheckpointError
from isdfine.nn.backbone.hgnetv2 import VARIANTS, HGNetv2
from isdfine.nn.norm import FrozenBatchNorm2d
from isdfine.nn.padding import Padding

CASES = [
    "B0_lab1_frozen0",
    "B0_lab1_frozen1",
    "B0_lab0_frozen0",
    "B1_lab1_frozen0",
    "B2_lab1_frozen0",
    "B2_lab0_frozen0",
    "B3_lab1_frozen0",
    "B4_lab0_frozen1",
    "B5_lab0_frozen1",
]


def small(**options: object) -> HGNetv2:
    torch.manual_seed(0)
    return HGNetv2("B0", **options)  # type: ignore[arg-type]


def filled(backbone: HGNetv2) -> HGNetv2:
    state = fill.fill_state_dict({f"backbone.{key}": value for key, value in backbone.state_dict().items()})
    backbone.load_state_dict({key.removeprefix("backbone."): value for key, value in state.items()})
    return backbone


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_the_official_ones(case: str) -> None:
    golden, meta = load_golden("hgnetv2.npz")
    expected = meta["cases"][case]
    name, lab, frozen = case.split("_")
    freeze = frozen == "frozen1"
    backbone = HGNetv2(name, lab == "lab1", range(4), freeze_at=0 if freeze else -1, freeze_norm=freeze)
    backbone = filled(backbone).eval()
    assert {key: list(value.shape) for key, value in backbone.state_dict().items()} == expected["keys"]
    assert sum(parameter.numel() for parameter in backbone.parameters()) == expected["params"]
    assert (
        sum(parameter.numel() for parameter in backbone.parameters() if not parameter.requires_grad)
        == expected["frozen_params"]
    )
    assert backbone.channels == expected["out_channels"]
    with torch.no_grad():
        maps = backbone(torch.from_numpy(fill.image_batch(meta["image_seed"], 1, *meta["image_hw"])))
    for stage, feature_map in enumerate(maps):
        assert list(feature_map.shape) == expected[f"shape_{stage}"]
        values = feature_map.flatten()
        step = max(1, len(values) // 64)
        picked = values[torch.arange(64) * step % len(values)].numpy()
        np.testing.assert_allclose(picked, golden[f"{case}/slice_{stage}"], atol=2e-5, rtol=1e-4)
        stat = [values.double().mean(), values.double().std(correction=0), values.double().norm()]
        np.testing.assert_allclose(stat, golden[f"{case}/stat_{stage}"], rtol=1e-5)
    # One value of 25,088 in B4 and one in B5 misses the recommended 2e-5. It is rounding: against a float64 run ours is
    # off by at most 2.6e-5 and 4.5e-5, the recorded values by 3.1e-5 and 5.5e-5.
    np.testing.assert_allclose(maps[-1][:, ::4].numpy(), golden[f"{case}/out_last"], atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("size", "nsmlx")
def test_keys_and_frozen_parameters_of_every_detector(size: str) -> None:
    keys = load_json(f"dfine_{size}_keys.json")
    section = load_json("configs.json")["variants"][f"{size}_coco"]["backbone"]
    with torch.device("meta"):
        backbone = HGNetv2(**section)
    mine = {f"backbone.{k}": (list(v.shape), str(v.dtype)) for k, v in backbone.state_dict().items()}
    stored = {
        k: (v["shape"], f"torch.{v['dtype']}") for k, v in keys["state_dict"].items() if k.startswith("backbone.")
    }
    assert mine == stored
    assert list(mine) == list(stored)
    frozen = [f"backbone.{name}" for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
    assert frozen == [name for name in keys["frozen_parameters"] if name.startswith("backbone.")]


@pytest.mark.parametrize(
    ("stem_only", "freeze_at", "frozen"),
    [(True, -1, set()), (True, 1, {"stem"}), (False, 1, {"stem", "stages.0", "stages.1"}), (False, -1, set())],
)
def test_what_freezing_freezes(stem_only: bool, freeze_at: int, frozen: set[str]) -> None:
    backbone = small(freeze_stem_only=stem_only, freeze_at=freeze_at)
    parts = {"stem": backbone.stem, **{f"stages.{i}": stage for i, stage in enumerate(backbone.stages)}}
    for name, part in parts.items():
        assert {parameter.requires_grad for parameter in part.parameters()} == {name not in frozen}


def test_frozen_norms_and_stage_choice() -> None:
    backbone = small(return_idx=(0, 3))
    assert not [module for module in backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert [module for module in backbone.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert (backbone.channels, backbone.strides) == ([64, 1024], [4, 32])
    assert [feature_map.shape for feature_map in backbone(torch.rand(1, 3, 64, 96))] == [
        (1, 64, 16, 24),
        (1, 1024, 2, 3),
    ]


def test_a_batch_of_two_is_two_batches_of_one() -> None:
    backbone = filled(small(use_lab=True, freeze_norm=False)).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        singles = [backbone(image[None]) for image in images]
        for level, both in enumerate(backbone(images)):
            torch.testing.assert_close(both, torch.cat([single[level] for single in singles]), atol=2e-5, rtol=1e-4)


def test_channels_last_is_kept_and_changes_nothing() -> None:
    backbone = filled(small(use_lab=True)).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        plain = backbone(images)
        last = backbone.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    for feature_map, other in zip(plain, last):
        assert other.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(feature_map, other, atol=2e-5, rtol=1e-4)


def test_affine_starts_as_identity_and_is_trained() -> None:
    backbone = small(use_lab=True, freeze_at=-1, freeze_norm=False)
    affine = {name: parameter for name, parameter in backbone.named_parameters() if ".lab." in name}
    assert {tensor.item() for name, tensor in affine.items() if name.endswith("scale")} == {1.0}
    assert {tensor.item() for name, tensor in affine.items() if name.endswith("bias")} == {0.0}
    # a plain sum would hide a wrong gradient: batch norm cancels it
    sum(feature_map.square().sum() for feature_map in backbone(torch.rand(2, 3, 64, 64))).backward()
    gradients = [parameter.grad for parameter in backbone.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_weights_come_from_the_local_folder(tmp_path: Path) -> None:
    source = filled(small(freeze_norm=False))
    torch.save(source.state_dict(), tmp_path / "PPHGNetV2_B0_stage1.pth")
    loaded = small(pretrained=True, local_model_dir=str(tmp_path))  # frozen norms: the file's counters are dropped
    for key, value in loaded.state_dict().items():
        torch.testing.assert_close(value, source.state_dict()[key], msg=key)


def test_absent_or_foreign_weights_stop(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"PPHGNetV2_B0_stage1.pth: no such file.*https://github.com/Peterande/storage/releases/download/dfinev1.0/"
        r"PPHGNetV2_B0_stage1.pth\).*set HGNetv2.pretrained to False",
    ):
        small(pretrained=True, local_model_dir=str(tmp_path))
    torch.save(HGNetv2("B1").state_dict(), tmp_path / "PPHGNetV2_B0_stage1.pth")
    with pytest.raises(CheckpointError, match=r"PPHGNetV2_B0_stage1.pth"):
        small(pretrained=True, local_model_dir=str(tmp_path))


def test_wrong_choices_are_listed() -> None:
    with pytest.raises(ValueError, match="no variant name='B7': choose one of B0, B1, B2, B3, B4, B5, B6"):
        HGNetv2("B7")
    for wrong in ([], [3, 2], [1, 1], [4], [-1]):
        with pytest.raises(ValueError, match=r"return_idx=.*one or more of \[0, 1, 2, 3\] in ascending order"):
            small(return_idx=wrong)
    with pytest.raises(ValueError, match=r"freeze_at=4: choose -1 .* or one of \[0, 1, 2, 3\]"):
        small(freeze_at=4)


def test_every_variant_is_consistent() -> None:
    for variant in VARIANTS.values():
        assert variant.stem[1] == variant.inputs[0]
        assert list(variant.results[:-1]) == variant.inputs[1:]
        assert len(variant.inner) == len(variant.results) == len(variant.blocks) == 4


@pytest.mark.parametrize("name", ["B0", pytest.param("B5", marks=pytest.mark.slow)])  # B5 has every kind of block
@pytest.mark.parametrize("size", [(45, 70), (59, 93), (64, 96)])  # the last fills the first canvas
def test_the_content_does_not_see_how_much_padding_there_is(name: str, size: tuple[int, int]) -> None:
    backbone = filled(HGNetv2(name, use_lab=True, return_idx=(0, 1, 2, 3))).eval()
    (height, width), results = size, []
    content = torch.rand(1, 3, *size)
    for canvas in ((64, 96), (64, 128), (128, 96)):
        images = torch.rand(1, 3, *canvas)
        images[..., :height, :width] = content
        padding = Padding(torch.tensor([size]), canvas)
        with torch.no_grad():
            maps = backbone(images, padding)
        for feature_map in maps:
            assert not feature_map[
                padding.mask((feature_map.shape[2], feature_map.shape[3])).expand_as(feature_map)
            ].any()
        results.append([feature_map[..., : 64 // s, : 96 // s] for feature_map, s in zip(maps, backbone.strides)])
    for other in results[1:]:
        for feature_map, first in zip(other, results[0]):
            torch.testing.assert_close(feature_map, first, atol=1e-5 * float(first.abs().max()), rtol=0)
    with torch.no_grad():
        bare = backbone(content)  # stops where the content does
        for feature_map, padded in zip(bare, results[0]):
            expected = padded[..., : feature_map.shape[2], : feature_map.shape[3]]
            torch.testing.assert_close(feature_map, expected, atol=1e-5 * float(feature_map.abs().max()), rtol=0)
        unmasked = backbone(torch.nn.functional.pad(content, (0, 128 - width, 0, 96 - height)))[0]
    assert not torch.allclose(unmasked[..., :16, :24], results[0][0], atol=1e-3)


def test_it_tells_what_it_starts_from_and_its_stages() -> None:
    assert small().starts_from is None
    assert small(pretrained=False).starts_from == "random weights (pretrained: False)"
    backbone = small()
    assert backbone.num_stages == 4
    assert [backbone.stage_of(name) for name in ("stem.stem1.conv.weight", "stages.2.blocks.0.layers.0.bn.bias")] == [
        0,
        3,
    ]
