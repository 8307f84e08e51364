"""Conflict without noise: what the runs logged of single measurements, pooled over the last fifth of training.

Shape legend: K = measurements, T = games.
"""

from collections.abc import Iterator, Sequence
from math import nan
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from lzero import tags
from lzero.report.blocks import Table
from lzero.report.components import EXPERT, ROUTED, Component
from lzero.report.last_part import Part, mean_or_nan, over_seeds, with_numbers
from lzero.report.run_data import RunData
from lzero.report.statistics import LEVEL
from lzero.report.study import Study, rows_once_per_study
from lzero.report.tables import Row, interval, number

if TYPE_CHECKING:  # torch is loaded where there is something to pool: help comes at once
    from lzero.analysis.conflict import GradientConflict

PAIR_COLUMNS = (
    *(
        "group",
        "run",
        "component",
        "env_step_from",
        "env_step_to",
        "measurements",
        "game",
        "other_game",
    ),
    *("cosine", "denoised", "low", "high", "reliability", "other_reliability", "why_not"),
)
SHARE_COLUMNS = (
    *("group", "run", "layer", "part", "env_step_from", "env_step_to", "measurements"),
    *("conflict_share", "norm_share", "excess"),
)
DENOISED = tags.DENOISED  # of pooled measurements here: minus the mean cosine without noise
RELIABILITY = "pooled_reliability"
CONFLICT_SHARE, NORM_SHARE, EXCESS = SHARE_COLUMNS[-3:]
MEASURES = (DENOISED, RELIABILITY, CONFLICT_SHARE, NORM_SHARE, EXCESS)
"""Of one seed, see :func:`seed_numbers`."""


@rows_once_per_study
def pair_rows(study: Study) -> Iterator[Row]:
    """Every pair of games at every component of every run, under ``PAIR_COLUMNS``; of runs that logged halves."""
    for group in study.groups:
        part = _last(group.runs)
        for run in group.runs:
            for component, conflict in pooled_conflicts(run, part).items():
                low, high = conflict.denoised_cosine_interval()
                place: Row = {"group": group.label, "run": run.name, "component": component.name}
                place |= {"env_step_from": part.start, "env_step_to": part.end}
                place |= {"measurements": len(conflict.products.gram)}
                for i, j in zip(*np.triu_indices(len(run.games), 1), strict=True):
                    yield place | {
                        "game": run.games[i],
                        "other_game": run.games[j],
                        "cosine": conflict.cosine_similarity_matrix[i, j].item(),
                        "denoised": conflict.denoised_cosine[i, j].item(),
                        "low": low[i, j].item(),
                        "high": high[i, j].item(),
                        "reliability": conflict.reliability[i].item(),
                        "other_reliability": conflict.reliability[j].item(),
                        "why_not": conflict.undenoised[i] or conflict.undenoised[j],
                    }


@rows_once_per_study
def share_rows(study: Study) -> Iterator[Row]:
    """What each part of every mixture-of-experts layer carries, under ``SHARE_COLUMNS``."""
    from lzero.analysis.conflict_parts import conflict_shares, parts_by_layer

    for group in study.groups:
        part = _last(group.runs)
        for run in group.runs:
            pooled = pooled_conflicts(run, part)
            by_name = {component.name: conflict for component, conflict in pooled.items()}
            for layer, names in parts_by_layer(list(by_name)).items():
                parts = {name: by_name[component] for name, component in names.items()}
                for name, share in conflict_shares(parts).items():
                    place: Row = {
                        "group": group.label,
                        "run": run.name,
                        "layer": layer,
                        "part": name,
                    }
                    place |= {"env_step_from": part.start, "env_step_to": part.end}
                    place |= {"measurements": len(parts[name].products.gram)}
                    yield place | {
                        "conflict_share": share.conflict,
                        "norm_share": share.norm,
                        "excess": share.excess,
                    }


def seed_numbers(run: RunData, part: Part) -> dict[str, dict[Component, float]]:
    """What one seed's measurements come to when they are pooled, by measure and component.

    Mean conflict over pairs without noise, reliability, and the shares of every layer's parts, its
    routed experts together: single ones have no order that two seeds share.
    """
    found: dict[str, dict[Component, float]] = {name: {} for name in MEASURES}
    pooled = pooled_conflicts(run, part)
    if not pooled:
        return found
    from lzero.analysis.conflict_parts import conflict_shares, parts_by_layer

    by_name = {component.name: conflict for component, conflict in pooled.items()}
    for component, conflict in pooled.items():
        if component.kind != EXPERT:
            found[DENOISED][component] = -mean_of_pairs(conflict.denoised_cosine.numpy())
            found[RELIABILITY][component] = mean_or_nan(conflict.reliability.tolist())
    for names in parts_by_layer(list(by_name)).values():
        shares = conflict_shares({name: by_name[component] for name, component in names.items()})
        for name, share in shares.items():
            component = Component.parse(names[name])
            if component.kind == EXPERT:
                component = Component(ROUTED, component.layer)
            for measure, value in ((CONFLICT_SHARE, share.conflict), (NORM_SHARE, share.norm)):
                found[measure][component] = found[measure].get(component, 0.0) + value
    for component, value in found[CONFLICT_SHARE].items():
        size = found[NORM_SHARE][component]
        found[EXCESS][component] = value / size if size > 0 else nan
    return found


def pooled_conflicts(run: RunData, part: Part) -> dict[Component, "GradientConflict"]:
    """Of a run's components whose halves were logged in one part of training, sorted; computed once."""
    if part not in run.pooled:
        run.pooled[part] = _pool(run, part)
    return run.pooled[part]


def _pool(run: RunData, part: Part) -> dict[Component, "GradientConflict"]:
    found = {}
    for tag in run.arrays:
        if tag.startswith(tags.CONFLICT_SIGNAL):
            name = tag.removeprefix(tags.CONFLICT_SIGNAL)
            steps = np.array(sorted(run.arrays[tag]))
            measured = []
            for step in steps[part.choose(steps)]:
                logged = []
                for kind in (
                    *(tags.CONFLICT_MATRIX, tags.CONFLICT_NORMS),
                    *(tags.CONFLICT_SIGNAL, tags.CONFLICT_HALF_NORMS),
                ):
                    logged.append(run.arrays.get(f"{kind}{name}", {}).get(step, ()))
                measured += list(zip(*logged, strict=False))
            if measured:
                found[Component.parse(name)] = _pooled(measured)
    return {component: found[component] for component in sorted(found, key=attrgetter("place"))}


def _pooled(measured: Sequence[tuple[np.ndarray, ...]]) -> "GradientConflict":
    """From cosines, norms, squared norms without noise and norms of halves of K measurements."""
    import torch

    from lzero.analysis.conflict import GradientConflict
    from lzero.analysis.noise import HalfProducts

    cosine, norms, signal, half_norms = (
        torch.from_numpy(np.stack(arrays)) for arrays in zip(*measured, strict=True)
    )
    gram = (cosine * norms[:, :, None] * norms[:, None]).nan_to_num(0.0)
    gram.diagonal(dim1=1, dim2=2).copy_(norms.square())
    unknown = torch.full_like(gram, torch.nan)  # the null of every measurement was logged as it was
    return GradientConflict.from_measurements(HalfProducts(gram, signal, half_norms, unknown))


def noise_tables(study: Study) -> list[Table]:
    """Cosines with and without noise, and what the layers' parts carry; none where no run logged halves."""
    lines: list[Sequence[str]] = []
    for group in study.groups:
        part = _last(group.runs)
        seeds: dict[str, dict[str, tuple[float, ...]]] = {}
        for run in group.runs:
            for component, conflict in pooled_conflicts(run, part).items():
                if component.kind != EXPERT:  # experts have no order that two seeds share
                    seeds.setdefault(component.name, {})[run.name] = (
                        mean_of_pairs(conflict.cosine_similarity_matrix.numpy()),
                        mean_of_pairs(conflict.denoised_cosine.numpy()),
                        mean_or_nan(conflict.reliability.tolist()),
                    )
        for name, by_run in seeds.items():
            raw, denoised, reliability = (
                over_seeds(dict(zip(by_run, values, strict=True)))
                for values in zip(*by_run.values(), strict=True)
            )
            ends = interval(denoised["low"], denoised["high"])
            means = (number(row["mean"]) for row in (reliability, raw, denoised))
            lines.append((group.label, name, str(len(by_run)), *means, ends))
    found: list[Table] = []
    if lines:
        head = (
            "experiment",
            "component",
            "seeds",
            "reliability",
            "cosine",
            "without noise",
            "interval",
        )
        caption = (
            "Cosine between games' gradients, mean over pairs, pooled over the last fifth of training: as measured, and "
            f"without the noise that two halves of the rows tell of ({LEVEL} bootstrap interval over seeds). Reliability: "
            "cosine between the gradients of a game's two halves. Every pair of every run, with an interval over its "
            "measurements, is in conflict_pairs.csv."
        )
        found.append(Table(head, lines, texts=2, caption=caption))
    by_part: dict[tuple[str, str, str], dict[str, dict[str, float]]] = {}
    for row in share_rows(study):
        if not row["part"].startswith(f"{EXPERT}_"):
            key = (row["group"], row["layer"], row["part"])
            by_part.setdefault(key, {})[row["run"]] = row
    of_parts: list[Sequence[str]] = []
    for key, rows in by_part.items():
        cells: list[str] = []
        for name in ("conflict_share", "norm_share", "excess"):
            over = over_seeds({run: row[name] for run, row in rows.items()})
            cells.append(f"{number(over['mean'])} ({interval(over['low'], over['high'])})")
        of_parts.append((*key, *cells))
    if of_parts:
        titles = (
            "experiment",
            "layer",
            "part",
            "of negative products",
            "of squared norm",
            "excess",
        )
        caption = (
            "What a layer's parts have of the negative scalar products between games' gradients, and of their squared "
            "norms; the rest is the routed experts'. Excess above 1: more conflict than its size explains "
            f"(mean, {LEVEL} bootstrap interval over seeds). All parts are in conflict_shares.csv."
        )
        found.append(Table(titles, of_parts, texts=3, caption=caption))
    return found


def mean_of_pairs(matrix: np.ndarray) -> float:
    """Mean above the diagonal of ``(T, T)``, over what is a number."""
    return mean_or_nan(matrix[np.triu_indices(len(matrix), 1)].tolist())


def _last(runs: Sequence[RunData]) -> Part:
    return Part.last(with_numbers(runs, tags.CONFLICT))
