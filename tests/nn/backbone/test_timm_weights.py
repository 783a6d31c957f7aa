# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Where weights come from: the network, the cache of earlier downloads, files of timm and of a model's authors."""

import re
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from isdfine.core.errors import CheckpointError
from isdfine.nn.backbone.timm import TimmBackbone

timm = pytest.importorskip("timm")
PLACE = "isdfine.nn.backbone.timm_weights"


def whole_state(name: str) -> dict[str, Tensor]:
    torch.manual_seed(11)
    state: dict[str, Tensor] = timm.create_model(name).state_dict()
    return {key: tensor + 0.1 if tensor.is_floating_point() else tensor for key, tensor in state.items()}


def holds(backbone: TimmBackbone, state: dict[str, Tensor]) -> bool:
    own = backbone.body.model.state_dict()
    return bool(own) and all(torch.equal(value, state[key]) for key, value in own.items())


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{PLACE}.getproxies", dict)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("this must not be called")


def without_network(asked: list[tuple[str, int]]) -> Any:
    def connect(address: tuple[str, int], timeout: float) -> None:
        assert 0 < timeout <= 10
        asked.append(address)
        raise socket.gaierror(-2, "Name or service not known")

    return connect


def test_without_a_network_the_message_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    create, asked = timm.create_model, list[tuple[str, int]]()

    def no_download(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        return never() if pretrained else create(name, **options)  # type: ignore[return-value]

    monkeypatch.setattr(timm, "create_model", no_download)
    monkeypatch.setattr(socket, "create_connection", without_network(asked))
    expected = r"test_resnet cannot be fetched \(no connection to huggingface\.co: .*Name or .*: get the file .*weights"
    with pytest.raises(CheckpointError, match=expected):
        TimmBackbone("test_resnet", pretrained=True)
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example:8080/hub")
    with pytest.raises(CheckpointError, match=r"no connection to mirror\.example"):
        TimmBackbone("test_resnet", pretrained=True)
    assert asked == [("huggingface.co", 443), ("mirror.example", 8080)]


def test_behind_a_proxy_the_client_is_left_to_find_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    create, state = timm.create_model, whole_state("test_resnet")

    def download(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        model: nn.Module = create(name, **options)
        if pretrained:
            model.load_state_dict(state)
        return model

    monkeypatch.setattr(timm, "create_model", download)
    monkeypatch.setattr(socket, "create_connection", never)
    monkeypatch.setattr(f"{PLACE}.getproxies", lambda: {"https": "http://proxy:3128"})
    assert holds(TimmBackbone("test_resnet", pretrained=True), state)


def test_an_earlier_download_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = whole_state("test_resnet")
    save_file(state, tmp_path / "model.safetensors")
    asked = []

    def cache(repository: str, file: str, revision: str | None = None) -> str | None:
        asked.append((repository, file, revision))
        return str(tmp_path / file) if file == "model.safetensors" else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cache)
    monkeypatch.setattr(socket, "create_connection", never)
    torch.manual_seed(3)
    backbone = TimmBackbone("test_resnet", pretrained=True)
    after = torch.rand(4)
    assert holds(backbone, state)
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors", None)]
    torch.manual_seed(3)
    TimmBackbone("test_resnet")
    assert torch.equal(after, torch.rand(4)), "what is built next starts as it would without the weights"


@pytest.mark.parametrize(
    "path",
    [
        "convnext_tiny.dinov3_lvd1689m/model.safetensors",
        "models--timm--convnext_tiny.dinov3_lvd1689m/snapshots/1/model.safetensors",
        "DINOv3_ConvNeXt_tiny_pretrain_LVD1689M-21b726bb.pth",
    ],
)
def test_a_path_that_names_restricted_weights_needs_consent(path: str) -> None:
    expected = r"weights of convnext_tiny\.dinov3_lvd1689m have the licence 'dinov3-license'.*accept_license: dinov3-"
    with pytest.raises(ValueError, match=expected):
        TimmBackbone("convnext_tiny", weights=path)
    free = {"weights": "convnext_tiny.fb_in1k/model.safetensors"}
    for options in ({"weights": path, "accept_license": "dinov3-license"}, free):
        with pytest.raises(CheckpointError, match="no such checkpoint file"), torch.device("meta"):
            TimmBackbone("convnext_tiny", **options)


def as_its_authors_wrote_convnext(state: dict[str, Tensor]) -> dict[str, Any]:
    rules = (
        (r"^stem\.", "downsample_layers.0."), (r"^stages\.(\d)\.downsample", r"downsample_layers.\1"),
        (r"\.blocks\.", "."), ("conv_dw", "dwconv"), (r"mlp\.fc", "pwconv"), (r"^head\.norm", "norm"),
        (r"^head\.fc", "head"),
    )  # fmt: skip
    for pattern, name in rules:
        state = {re.sub(pattern, name, key): value for key, value in state.items()}
    return {"model": state}


def as_older_timm_wrote_swin(state: dict[str, Tensor]) -> dict[str, Tensor]:
    def earlier(found: re.Match[str]) -> str:
        return f"layers.{int(found[1]) - 1}.downsample"

    renamed = {re.sub(r"layers\.(\d)\.downsample", earlier, key): value for key, value in state.items()}
    return {key.replace("head.fc.", "head."): value for key, value in renamed.items()} | {
        "layers.0.blocks.1.attn_mask": torch.zeros(3)
    }


@pytest.mark.parametrize(
    ("name", "rewrite"),
    [("test_convnext", as_its_authors_wrote_convnext), ("swin_tiny_patch4_window7_224", as_older_timm_wrote_swin)],
)
def test_files_that_timm_converts_fit(name: str, rewrite: Any, tmp_path: Path) -> None:
    state = whole_state(name)
    torch.save(rewrite(state), tmp_path / "w.pth")
    assert holds(TimmBackbone(name, weights=str(tmp_path / "w.pth")), state)


@pytest.mark.parametrize(("name", "other"), [("test_convnext", "test_resnet"), ("test_vit", "test_convnext")])
def test_what_timm_cannot_convert_is_named_as_it_is(name: str, other: str, tmp_path: Path) -> None:
    torch.save(whole_state(other), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=rf"w\.pth: these are not weights of timm's {name} .*give the file that"):
        TimmBackbone(name, out_indices=[1], weights=str(tmp_path / "w.pth"))
