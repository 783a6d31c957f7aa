# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Detector outputs for criterion tests: the golden ones and random ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from golden_cases import load_golden
from isdfine.distill.layers import GOLSD
from isdfine.distill.objective import Objective
from isdfine.losses.criterion import DFINECriterion
from isdfine.losses.matched import union_of_matches
from isdfine.losses.matcher import HungarianMatcher
from isdfine.nn.types import DetectorOutput, GroupOutput, Predictions, QueryGroup

WEIGHTS = {"loss_vfl": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_fgl": 0.15, "loss_ddf": 1.5}
GOLDEN = (
    "plain",
    "dn",
    "rm16_dn_empty_image",
    "no_targets_dn",
    "agnostic",
    "more_targets_than_queries",
    "teacher_equals_student",
)


def official_matcher() -> HungarianMatcher:
    return HungarianMatcher({"cost_class": 2, "cost_bbox": 5, "cost_giou": 2}, use_focal_loss=True)


def official_criterion(num_classes: int, reg_max: int, **options: Any) -> DFINECriterion:
    """With the published weights."""
    given = {"weight_dict": WEIGHTS, "losses": ["vfl", "boxes", "local"], "alpha": 0.75, **options}
    return DFINECriterion(official_matcher(), num_classes=num_classes, reg_max=reg_max, **given)


def official_objective(
    num_classes: int, reg_max: int, *, go_lsd: dict[str, Any] | None = None, **options: Any
) -> Objective:
    """The criterion with GO-LSD wherever the losses ask for it; ``go_lsd`` changes its options."""
    criterion = official_criterion(num_classes, reg_max, **options)
    return Objective(criterion, None if go_lsd is None else [GOLSD(**go_lsd)])


def dn_group(assigned: Tensor, repeats: int, padding: Tensor, **options: Any) -> QueryGroup:
    empty = torch.zeros(*assigned.shape, 4)
    return QueryGroup("dn", empty, empty, assigned=assigned, padding=padding, repeats=repeats, **options)


@dataclass
class Case:
    output: DetectorOutput
    targets: list[dict[str, Tensor]]
    inputs: dict[str, Tensor]
    """Leaves, by the names of ``criterion_cases.npz``."""
    num_classes: int
    reg_max: int


def assemble(
    inputs: dict[str, Tensor],
    base: Tensor,
    targets: list[dict[str, Tensor]],
    *,
    layers: int,
    reg_max: int,
    dn: tuple[QueryGroup, Tensor] | None = None,
    a: float = 0.5,
    s: float = 4,
) -> Case:
    """An output from named tensors: ``l0.logits``, ``pre.boxes``, ``dn1.corners``, ..."""

    def head(name: str, initial: Tensor) -> Predictions:
        edges = inputs.get(f"{name}.corners")
        return Predictions(inputs[f"{name}.logits"], inputs[f"{name}.boxes"], edges, None if edges is None else initial)

    groups = {}
    if dn is not None:
        group, dn_base = dn
        groups["dn"] = GroupOutput(group, [head(f"dn{i}", dn_base) for i in range(layers)], head("dnpre", dn_base))
    output = DetectorOutput(
        [head(f"l{i}", base) for i in range(layers)],
        head("pre", base),
        head("enc", base),
        groups,
        torch.tensor([a]),
        torch.tensor([int(s)]),
    )
    return Case(output, targets, inputs, inputs["l0.logits"].shape[-1], reg_max)


def golden_case(name: str) -> tuple[Case, dict[str, Any], dict[str, Any]]:
    """One case of ``criterion_cases.npz``, its arrays (without the case's prefix) and its meta record."""
    arrays, meta = load_golden("criterion_cases.npz")
    arrays = {key[len(name) + 1 :]: value for key, value in arrays.items() if key.startswith(f"{name}/")}
    case = meta["cases"][name]
    inputs = {key[3:]: torch.from_numpy(value).requires_grad_() for key, value in arrays.items() if key[:3] == "in/"}
    counts = case["counts"]
    targets = [
        {"labels": torch.from_numpy(arrays[f"labels_{b}"]), "boxes": torch.from_numpy(arrays[f"boxes_{b}"])}
        for b in range(case["B"])
    ]
    dn = None
    if "dn_ref_points" in arrays:
        base = torch.from_numpy(arrays["dn_ref_points"])
        assigned = torch.full(base.shape[:2], -1)
        for b, count in enumerate(counts):
            if count:
                positive = torch.from_numpy(arrays[f"dn_positive_idx_{b}"])
                assigned[b, positive] = torch.arange(count).repeat(case["dn_num_group"])
        slots = torch.arange(base.shape[1]) % max(*counts, 1)
        padding = slots >= torch.tensor(counts)[:, None]
        dn = dn_group(assigned, case["dn_num_group"], padding), base
    built = assemble(
        inputs,
        torch.from_numpy(arrays["ref_points"]),
        targets,
        layers=case["decoder_layers"],
        reg_max=case["reg_max"],
        dn=dn,
        a=case["up"],
        s=case["reg_scale"],
    )
    return built, arrays, case


def random_case(
    seed: int,
    counts: tuple[int, ...] = (3, 0, 5),
    *,
    queries: int = 9,
    num_classes: int = 4,
    layers: int = 3,
    reg_max: int = 8,
    agnostic: bool = False,
    dn_groups: int = 0,
    negatives: bool = True,
) -> Case:
    """Random sets; with ``dn_groups`` G, denoising queries laid out as G times [M positive, M negative].

    Without ``negatives`` they are G times [M positive], whose padding is not scored (DN-DETR).
    """
    generator = torch.Generator().manual_seed(seed)

    def boxes(*shape: int) -> Tensor:
        return torch.rand(*shape, 4, generator=generator) * 0.3 + 0.2

    batch, most = len(counts), max(counts)
    targets = [{"labels": torch.randint(num_classes, (n,), generator=generator), "boxes": boxes(n)} for n in counts]
    heads = [(f"l{i}", queries, num_classes, True) for i in range(layers)]
    heads += [("pre", queries, num_classes, False), ("enc", queries, 1 if agnostic else num_classes, False)]
    dn = None
    if dn_groups:
        period = (2 if negatives else 1) * most
        size = dn_groups * period
        heads += [(f"dn{i}", size, num_classes, True) for i in range(layers)] + [("dnpre", size, num_classes, False)]
        slot = torch.arange(size) % max(period, 1)
        assigned = torch.where(slot < torch.tensor(counts)[:, None], slot, -1)
        padding = slot % max(most, 1) >= torch.tensor(counts)[:, None]
        dn = dn_group(assigned, dn_groups, padding, scores_padding=negatives), boxes(batch, size)
    inputs = {}
    for name, size, classes, has_edges in heads:
        inputs[f"{name}.logits"] = torch.randn(batch, size, classes, generator=generator)
        inputs[f"{name}.boxes"] = boxes(batch, size)
        if has_edges:
            inputs[f"{name}.corners"] = torch.randn(batch, size, 4 * (reg_max + 1), generator=generator)
    inputs = {name: value.requires_grad_() for name, value in inputs.items()}
    return assemble(inputs, boxes(batch, queries), targets, layers=layers, reg_max=reg_max, dn=dn)


def images_of(case: Case, chosen: slice) -> Case:
    """The same case with some of its images only (fresh leaves)."""
    output = case.output
    inputs = {name: value.detach()[chosen].clone().requires_grad_() for name, value in case.inputs.items()}
    dn = None
    if "dn" in output.groups:
        group = output.groups["dn"]
        part = replace(group.group, assigned=group.group.assigned[chosen], padding=group.group.padding[chosen])
        dn = part, group.layers[0].initial_boxes[chosen]
    return assemble(
        inputs,
        output.layers[0].initial_boxes[chosen],
        case.targets[chosen],
        layers=len(output.layers),
        reg_max=case.reg_max,
        dn=dn,
    )


def union_match(list_of_indices: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> list[tuple[Tensor, Tensor]]:
    """Union of the matches of several prediction sets, image by image, by the rule of ``union_of_matches``.

    Args:
        list_of_indices: per set, per image (query, target) as :class:`HungarianMatcher` returns them.

    Returns: per image (query, target), int64 on the host.
    """
    unions = []
    for of_image in zip(*list_of_indices):
        query, target = (torch.cat([torch.as_tensor(pair[side]).cpu() for pair in of_image]) for side in (0, 1))
        query_index, target_index = union_of_matches(query.numpy(), target.numpy())
        unions.append((torch.from_numpy(query_index), torch.from_numpy(target_index)))
    return unions
