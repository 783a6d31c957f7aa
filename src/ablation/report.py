# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The outcome of an ablation as Markdown, JSON and pictures."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..core.files import whole_file
from .layers import values_by_layer
from .matrix import Matrix
from .plots import draw_plots
from .results import ABSENT, Outcome, Results
from .statistics import FACTOR, LEARNED, MIN_SEEDS, NOTHING, Paired, false_claim_rate, summarize

SIZES = ("APs", "APm", "APl")
COST = (
    "Teacher: on the same validation data. Gap closed: the paired difference to the baseline, over what the baseline "
    "lacks to the teacher; it says no more than the verdict allows. Seconds per step: mean over seeds of the log's "
    "medians. Peak memory: the most that a training process held, evaluations included: tensors on a GPU (cuda), or "
    "all of its main memory (resident)."
)


def write_report(results: Results, *, train: str, command: str) -> Path:
    """Write ``report.md``, ``report.json`` and the plots into the matrix's folder.

    Args:
        results: what is there.
        train: how a run is started, for the list of commands (``isdfine train``).
        command: how the ablation was started.

    Returns:
        The Markdown file.
    """
    folder = results.matrix.output_dir
    pictures = {data.name: draw_plots(results, data.name) for data in results.matrix.data}
    path = folder / "report.md"
    _write(folder / "report.json", json.dumps(to_dict(results), indent=1, ensure_ascii=False) + "\n")
    _write(path, markdown(results, pictures, train=train, command=command))
    return path


def markdown(results: Results, pictures: dict[str, list[str]], *, train: str, command: str) -> str:
    """The whole report; ``pictures`` are file names by data set."""
    matrix = results.matrix
    judged = {
        "last": "the evaluation after the last epoch (nothing is selected on the evaluated data)",
        "best": "the evaluation with the highest AP (selected on the evaluated data: every value is optimistic)",
    }[matrix.judge]
    parts = [
        f"# Ablation: {matrix.name}",
        f"{len(results.outcomes)} of {len(matrix.runs())} runs are finished and used. Of each run counts {judged}. "
        "Values in percent, mean ± standard deviation (n - 1) over seeds.",
    ]
    for data in matrix.data:
        parts += _data_section(results, data.name, pictures.get(data.name, []))
    parts += _run_section(results)
    parts += _missing_section(results)
    parts += _how_section(results, train, command)
    return "\n\n".join(parts) + "\n"


def summary_table(results: Results, data: str) -> str:
    """One row per variant: values, paired difference of the first metric, verdict."""
    matrix = results.matrix
    first = matrix.metrics[0]
    rows = []
    for variant in matrix.variants:
        values = [_spread(list(results.values(data, variant.name, metric).values())) for metric in matrix.metrics]
        own = results.paired(data, variant.name, first)
        difference, verdict = ("baseline", "") if variant.name == matrix.baseline else ("-", "no common seed")
        if own is not None:
            difference, verdict = _difference(own), f"**{own.verdict}**"
        count = len(results.of(data, variant.name))
        rows.append([f"`{variant.name}`", f"{count} of {len(matrix.seeds)}", *values, difference, verdict])
    head = ["variant", "seeds", *matrix.metrics, f"{first} minus `{matrix.baseline}`, paired", f"verdict on {first}"]
    return _table(head, rows)


def cost_table(results: Results, data: str) -> str:
    """One row per variant: its teacher, the gap to it, metrics by size of object, time and memory of training."""
    first = results.matrix.metrics[0]
    rows = []
    for variant in results.matrix.variants:
        outcomes = results.of(data, variant.name).values()
        teachers = {outcome.teacher[first] for outcome in outcomes if outcome.teacher and first in outcome.teacher}
        sizes = [[value for outcome in outcomes if (value := outcome.stats.get(name, ABSENT)) != ABSENT]
                 for name in SIZES]  # fmt: skip
        seconds = [outcome.seconds_per_step for outcome in outcomes if outcome.seconds_per_step is not None]
        peaks = [outcome.peak_mib for outcome in outcomes if outcome.peak_mib is not None]
        rows.append([
            f"`{variant.name}`", ", ".join(map(_percent, sorted(teachers))) or "-",
            _spread(list(results.values(data, variant.name, first).values())),
            _gap_closed(results, data, variant.name, teachers), *map(_spread, sizes),
            f"{sum(seconds) / len(seconds):.3f}" if seconds else "-",
            ", ".join(f"{max(mib for kind, mib in peaks if kind == counted):.0f} MiB {counted}"
                      for counted in sorted({kind for kind, _ in peaks})) or "-",
        ])  # fmt: skip
    return _table(["variant", f"teacher {first}", first, "gap closed", *SIZES, "s per step", "peak memory"], rows)


def _gap_closed(results: Results, data: str, variant: str, teachers: Collection[float]) -> str:
    """The gain as a share of what the baseline lacks to the teacher, over common seeds; "-" where it lacks nothing."""
    first = results.matrix.metrics[0]
    paired = results.paired(data, variant, first)
    if paired is None or len(teachers) != 1:
        return "-"
    baseline = results.values(data, results.matrix.baseline, first)
    gap = next(iter(teachers)) - sum(baseline[seed] for seed in paired.seeds) / len(paired.seeds)
    return f"{100 * paired.mean / gap:.0f} %" if gap > 0 else "-"


def to_dict(results: Results) -> dict[str, Any]:
    """Everything in the report, as fractions in [0, 1], for other programs."""
    matrix = results.matrix
    cells = [(data.name, variant.name) for data in matrix.data for variant in matrix.variants]
    return {
        "name": matrix.name,
        "judge": matrix.judge,
        "baseline": matrix.baseline,
        "seeds": list(matrix.seeds),
        "metrics": list(matrix.metrics),
        "runs": [_run_dict(outcome) for outcome in results.outcomes],
        "missing": results.missing,
        "notes": results.notes,
        "comparisons": [
            {"data": data, "variant": variant, "metric": metric, **vars(paired)}
            for data, variant in cells
            for metric in matrix.metrics
            if (paired := results.paired(data, variant, metric)) is not None
        ],
        "first_layer": [
            {"data": data, "variant": variant, "metric": matrix.metrics[0], **vars(paired)}
            for data, variant in cells
            if (paired := results.paired_first_layer(data, variant)) is not None
        ],
    }


def _run_dict(outcome: Outcome) -> dict[str, Any]:
    return {
        "data": outcome.run.data,
        "variant": outcome.run.variant,
        "seed": outcome.run.seed,
        "folder": str(outcome.run.folder.path),
        "config_hash": outcome.config_hash,
        "epoch": outcome.epoch,
        "step": outcome.step,
        "stats": outcome.stats,
        "curve": [{"step": step, **stats} for step, stats in outcome.curve],
        "seconds_per_step": outcome.seconds_per_step,
        "teacher": outcome.teacher,
        "peak_mib": None if outcome.peak_mib is None else dict([outcome.peak_mib]),
        "parameters": None if outcome.layers is None else outcome.layers.parameters,
        "layers": None if outcome.layers is None else list(outcome.layers.stats),
    }


def _data_section(results: Results, data: str, pictures: Sequence[str]) -> list[str]:
    parts = [f"## {data or 'Results'}", summary_table(results, data)]
    rows, claims = _difference_rows(results, data)
    if rows:
        baseline = results.matrix.baseline
        head = ["variant", "metric", "seeds", f"minus `{baseline}`", "seed by seed", "95 % interval (t)", "p",
                "smallest to be claimed", "verdict"]  # fmt: skip
        parts += [f"### Differences to `{baseline}`", _table(head, rows), _rule(claims)]
    parts += ["### Teacher, sizes of objects, cost", cost_table(results, data), COST]
    layers = _layer_table(results, data)
    if layers:
        first = results.matrix.metrics[0]
        parts += [f"### {first} of each decoder layer's boxes", layers]
    parts += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in pictures]
    return parts


def _difference_rows(results: Results, data: str) -> tuple[list[list[str]], list[int]]:
    """Rows of the table of differences, and the number of seeds of each comparison that got a verdict."""
    rows, claims = [], []
    for variant in results.matrix.variants:
        for metric in results.matrix.metrics:
            paired = results.paired(data, variant.name, metric)
            if paired is None:
                continue
            if len(paired.seeds) >= MIN_SEEDS:
                claims.append(len(paired.seeds))
            each = ", ".join(f"{seed}: {_signed(value)}" for seed, value in zip(paired.seeds, paired.differences))
            interval = (
                "-" if paired.interval is None else f"{_signed(paired.interval[0])} to {_signed(paired.interval[1])}"
            )
            p_value = "-" if paired.p_value is None else f"{paired.p_value:.3f}"
            smallest = "-" if paired.smallest is None else f"{100 * paired.smallest:.2f}"
            row = [
                f"`{variant.name}`",
                metric,
                str(len(paired.seeds)),
                _difference(paired),
                each,
                interval,
                p_value,
                smallest,
            ]
            rows.append([*row, paired.verdict])
    return rows, claims


def _rule(claims: Sequence[int]) -> str:
    text = (
        f"Rule: a difference is claimed only where the mean of the paired differences (same seed) exceeds {FACTOR:g} "
        "times its standard error, sd / √n; else no difference is shown. "
        f"Fewer than {MIN_SEEDS} pairs get no verdict, and neither do values that are all below "
        f"{100 * LEARNED:g}: {NOTHING}, train longer. "
        "The interval and p are those of a paired t-test; the last number column is what the spread of this row "
        f"and its number of seeds would have let the rule claim ({FACTOR:g} standard errors)."
    )
    if not claims:
        return text
    rates = "; ".join(f"{100 * false_claim_rate(n):.0f} % of the time with {n} seeds" for n in sorted(set(claims)))
    expected = sum(false_claim_rate(n) for n in claims)
    return (
        f"{text} The rule is generous with few seeds: where there is no difference it claims one {rates}, which over "
        f"the {len(claims)} comparisons of this table makes about {expected:.1f} false claims (not independent: "
        "they share the baseline, and metrics go together)."
    )


def _layer_table(results: Results, data: str) -> str:
    """AP of each layer, what refinement adds, and whether the first layer is better than the baseline's."""
    rows, depth = [], 0
    metric, baseline = results.matrix.metrics[0], results.matrix.baseline
    for variant in results.matrix.variants:
        measured = [outcome.layers for outcome in results.of(data, variant.name).values() if outcome.layers is not None]
        values = values_by_layer(measured, metric)
        if not values:
            continue
        depth = max(depth, len(values))
        gains = [later - earlier for earlier, later in zip(values[0], values[measured[0].answers])]
        own = results.paired_first_layer(data, variant.name)
        first = [_difference(own), own.verdict] if own else ["baseline" if variant.name == baseline else "-", ""]
        rows.append([f"`{variant.name}`", str(len(measured)), *first, _spread(gains), *map(_spread, values)])
    head = ["variant", "seeds", f"layer 1 minus layer 1 of `{baseline}`, paired", "verdict on layer 1",
            "answering layer minus layer 1", *(f"layer {number + 1}" for number in range(depth))]  # fmt: skip
    return _table(head, [[*row, *["-"] * (len(head) - len(row))] for row in rows]) if rows else ""


def _run_section(results: Results) -> list[str]:
    metrics = results.matrix.metrics
    rows = [
        [outcome.run.label, str(outcome.epoch), str(outcome.step),
         *(_percent(outcome.stats[metric]) for metric in metrics),
         "-" if outcome.seconds_per_step is None else f"{outcome.seconds_per_step:.3f}"]
        for outcome in results.outcomes
    ]  # fmt: skip
    head = ["run", "epoch", "step", *metrics, "s per step (median)"]
    return ["## Every run", _table(head, rows)] if rows else []


def _missing_section(results: Results) -> list[str]:
    parts = []
    if results.missing:
        parts += ["## Missing", "\n".join(f"- {label}: {why}" for label, why in results.missing.items())]
    if results.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in results.notes)]
    return parts


def _how_section(results: Results, train: str, command: str) -> list[str]:
    import torch

    matrix = results.matrix
    rows, commands = [], []
    for data in matrix.data:
        for variant in matrix.variants:
            outcomes = results.of(data.name, variant.name)
            some = next(iter(outcomes.values()), None)
            sizes = {f"{outcome.layers.parameters / 1e6:.2f} M" for outcome in outcomes.values() if outcome.layers}
            row = [data.name, f"`{variant.name}`", some.config_hash if some else "-", ", ".join(sorted(sizes)) or "-"]
            rows.append(row if data.name else row[1:])
            commands.append(f"{train} {_shell(matrix, data.name, variant.name)}")
    head = [*(["data"] if len(rows[0]) == 4 else []), "variant", "config", "parameters"]
    return [
        "## How",
        "Config: hash of the resolved config, seed and bookkeeping aside. Parameters: of the model as it is trained. "
        f"Report written with torch {torch.__version__}. Seconds per step depend on what else the machine did.",
        _table(head, rows),
        "\n".join(["```bash", command, f"# one by one, for the first seed of {len(matrix.seeds)}:", *commands, "```"]),
    ]


def _shell(matrix: Matrix, data: str, variant: str) -> str:
    import shlex

    run = next(run for run in matrix.runs() if (run.data, run.variant) == (data, variant))
    return shlex.join(run.arguments())


def _difference(paired: Paired) -> str:
    return _signed(paired.mean) + ("" if paired.sd is None else f" ± {100 * paired.sd:.2f}")


def _signed(value: float) -> str:
    """Percent with its sign; what rounds to zero is +0.00."""
    return f"{round(100 * value, 2) + 0.0:+.2f}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    summary = summarize(values)
    return f"{100 * summary.mean:.2f}" + ("" if summary.sd is None else f" ± {100 * summary.sd:.2f}")


def _percent(value: float) -> str:
    return "-" if value == ABSENT else f"{100 * value:.2f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _write(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
