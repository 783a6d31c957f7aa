# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch

from builders import load_tool
from hf_cases import filled, micro


def test_training_layers_are_left_out_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = micro(tmp_path, **{"DFINETransformer.num_layers": 3, "DFINETransformer.eval_idx": 0})
    torch.save({"model": filled(config).state_dict()}, tmp_path / "deep.pth")
    (tmp_path / "deep.yml").write_text(config.dump())
    tool, given = load_tool("convert_checkpoint"), [str(tmp_path / "deep.pth"), str(tmp_path / "short.pth")]
    assert tool.main([*given, "--to", "official", "-c", str(tmp_path / "deep.yml"), "--inference"]) == 0
    assert "layers:   left out 2 of 3 decoder layers, which only training runs" in capsys.readouterr().out
    content = torch.load(tmp_path / "short.pth", weights_only=True)
    assert not [key for key in content["model"] if key.startswith("decoder.decoder.layers.1")]
    assert "num_layers: 1" in content["config"]
    given = [str(tmp_path / "short.pth"), str(tmp_path / "again.pth"), "--to", "official"]
    assert tool.main([*given, "--inference"]) == 0
    assert "layers:   all are kept: every decoder layer runs in inference" in capsys.readouterr().out
    assert tool.main([*given, "--force"]) == 0
    assert "layers:" not in capsys.readouterr().out
