"""What an analysis of a checkpoint's experts came to, as a record and as the JSON file of a run that reports read.

Shape legend: T = tasks, E = routed experts, B = windows of all tasks, L = loss terms and their weighted total, N = episodes,
Q = quantiles (``specialisation.QUANTILES``). A 3 in front of a shape is a value and both ends of its 95 % interval.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lzero import checks
from lzero.analysis.specialisation import (
    QUANTILES,
    NullTest,
    effective_number,
    mutual_information,
)

ANALYSIS_FILE = "expert_analysis.json"
FORMAT_VERSION = 1
TOTAL = "total"
"""The loss terms' sum with the weights of the experiment."""
ROUTED, SHARED = "routed_experts", "shared_expert"
"""All routed experts of a layer, and its shared ones, as parts that can be switched off."""


def expert_name(expert: int) -> str:
    """What the routed expert with this number is called as such a part."""
    return f"expert_{expert}"


@dataclass(frozen=True)
class LayerSelection:
    """Who selects which expert in one layer.

    Attributes:
        window_counts: selections of every window ``(B, E)``.
        counts: the same of every task ``(T, E)``.
        information: mutual information of task and expert in nats, tasks weighted equally, tested against a router that
            cannot know the task; scalars.
        entropy: of each task's selections ``(T,)``, tested likewise for being smaller.
    """

    window_counts: np.ndarray
    counts: np.ndarray
    information: NullTest
    entropy: NullTest

    @property
    def share_of_largest(self) -> float:
        """Mutual information as a share of what it can be at most."""
        return float(mutual_information(self.counts).normalised)

    @property
    def effective_experts(self) -> np.ndarray:
        """Effective number of experts of each task ``(T,)``."""
        return effective_number(self.counts)


@dataclass(frozen=True)
class Ablation:
    """What changes when a part of a layer is off, against nothing being off.

    Attributes:
        layer: its number.
        part: an :func:`expert_name`, :data:`ROUTED` or :data:`SHARED`.
        loss: change of the loss terms on the same windows ``(3, L, T)``; above 0 the part was of use.
        returns: change of the return per episode ``(3, T)``; None if none was played.
    """

    layer: int
    part: str
    loss: np.ndarray
    returns: np.ndarray | None


@dataclass(frozen=True)
class ExpertAnalysis:
    """Experts of one checkpoint.

    Attributes:
        checkpoint: its name.
        train_iter: updates before it.
        env_steps: env steps per game before it.
        seed: of the windows, permutations, resamples and episodes.
        permutations: labellings of the null.
        games: names of the T tasks.
        terms: names of the loss terms, :data:`TOTAL` last.
        task: of every window ``(B,)``.
        layers: by number.
        loss: terms with nothing off ``(L, T)``.
        returns: of the episodes with nothing off ``(T, N)``; None if none was played.
        ablations: layer by layer.
        windows_from: ``replay`` of the run, or ``play``, of the agent alone, where there was none.
    """

    checkpoint: str
    train_iter: int
    env_steps: int
    seed: int
    permutations: int
    games: tuple[str, ...]
    terms: tuple[str, ...]
    task: np.ndarray
    layers: Mapping[int, LayerSelection]
    loss: np.ndarray
    returns: np.ndarray | None
    ablations: tuple[Ablation, ...]
    windows_from: str = "replay"

    def share_of_selections(self, layer: int, part: str) -> float:
        """Mean over tasks of the share of selections that go to a part; NaN for the shared expert, which is not selected."""
        counts = self.layers[layer].counts
        of_task = counts / counts.sum(axis=-1, keepdims=True)
        if part == SHARED:
            return float("nan")
        expert = part.rpartition("_")[2]
        return float(of_task[:, int(expert)].mean()) if expert.isdecimal() else 1.0

    def write(self, file: Path) -> None:
        """Write the file, whole or not at all."""
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self._as_json()) + "\n", encoding="utf-8")
        unfinished.replace(file)

    @classmethod
    def read(cls, file: Path) -> "ExpertAnalysis":
        """Read what :meth:`write` has written.

        Raises:
            ValueError: if the file is no such analysis, or one of another version.
            OSError: if it cannot be read.
        """
        data = json.loads(checks.path("file", file).read_text(encoding="utf-8"))
        try:
            if data["format_version"] != FORMAT_VERSION:
                raise ValueError(
                    f"it has format version {data['format_version']}, this program reads {FORMAT_VERSION}"
                )
            return cls._from_json(data)
        except (ArithmeticError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"it is no analysis of experts ({error!r})") from error

    def _as_json(self) -> dict[str, Any]:
        layers = {}
        for number, layer in self.layers.items():
            layers[str(number)] = {
                "window_counts": layer.window_counts.tolist(),
                "counts": layer.counts.tolist(),
                "mutual_information": _test_as_json(layer.information),
                "share_of_largest": _as_lists(layer.share_of_largest),
                "entropy": _test_as_json(layer.entropy),
                "effective_experts": _as_lists(layer.effective_experts),
            }
        ablations = []
        for ablation in self.ablations:
            change: dict[str, Any] = {"layer": ablation.layer, "part": ablation.part}
            change["loss"] = _as_lists(ablation.loss)
            change["returns"] = None if ablation.returns is None else _as_lists(ablation.returns)
            ablations.append(change)
        return {
            "format_version": FORMAT_VERSION,
            "checkpoint": self.checkpoint,
            "train_iter": self.train_iter,
            "env_steps": self.env_steps,
            "windows_from": self.windows_from,
            "seed": self.seed,
            "permutations": self.permutations,
            "games": list(self.games),
            "terms": list(self.terms),
            "task": self.task.tolist(),
            "layers": layers,
            "loss": _as_lists(self.loss),
            "returns": None if self.returns is None else _as_lists(self.returns),
            "ablations": ablations,
        }

    @classmethod
    def _from_json(cls, data: Mapping[str, Any]) -> "ExpertAnalysis":
        games, terms = tuple(map(str, data["games"])), tuple(map(str, data["terms"]))
        task = checks.tasks("task", data["task"], len(games))
        layers = {}
        for number, layer in data["layers"].items():
            counts = checks.integers("counts", layer["counts"])
            checks.shape("counts", counts, len(games), None)
            window_counts = checks.integers("window_counts", layer["window_counts"])
            checks.shape("window_counts", window_counts, len(task), counts.shape[1])
            information = _test_from_json(layer["mutual_information"])
            checks.shape("mutual_information", information.observed)
            entropy = _test_from_json(layer["entropy"])
            checks.shape("entropy", entropy.observed, len(games))
            layers[int(number)] = LayerSelection(window_counts, counts, information, entropy)
        ablations = []
        for change in data["ablations"]:
            loss, returns = _numbers(change["loss"]), change["returns"]
            checks.shape("loss", loss, 3, len(terms), len(games))
            if returns is not None:
                returns = _numbers(returns)
                checks.shape("returns", returns, 3, len(games))
            ablations.append(Ablation(int(change["layer"]), str(change["part"]), loss, returns))
        loss, returns = _numbers(data["loss"]), data["returns"]
        checks.shape("loss", loss, len(terms), len(games))
        return cls(
            checkpoint=str(data["checkpoint"]),
            train_iter=int(data["train_iter"]),
            env_steps=int(data["env_steps"]),
            windows_from=str(data.get("windows_from", "replay")),  # earlier files do not say it
            seed=int(data["seed"]),
            permutations=int(data["permutations"]),
            games=games,
            terms=terms,
            task=task,
            layers=layers,
            loss=loss,
            returns=None if returns is None else _numbers(returns),
            ablations=tuple(ablations),
        )


def _test_as_json(test: NullTest) -> dict[str, Any]:
    return {
        "observed": _as_lists(test.observed),
        "null_mean": _as_lists(test.mean),
        "null_quantiles": _as_lists(test.quantiles),
        "p_value": _as_lists(test.p_value),
    }


def _test_from_json(data: Mapping[str, Any]) -> NullTest:
    observed, quantiles = _numbers(data["observed"]), _numbers(data["null_quantiles"])
    checks.shape("null_quantiles", quantiles, len(QUANTILES), *observed.shape)
    mean, p_value = _numbers(data["null_mean"]), _numbers(data["p_value"])
    for name, numbers in (("null_mean", mean), ("p_value", p_value)):
        checks.shape(name, numbers, *observed.shape)
    return NullTest(observed, mean, quantiles, p_value)


def _as_lists(array: np.ndarray | float) -> Any:
    """Numbers for JSON, which knows no NaN and no infinity: these become null."""
    numbers = np.array(array, object)
    numbers[~np.isfinite(np.asarray(array, np.float64))] = None
    return numbers.tolist()


def _numbers(lists: Any) -> np.ndarray:
    """Numbers of :func:`_as_lists`, null as NaN."""
    return np.array(lists, np.float64)
