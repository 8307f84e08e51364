"""Analyse the experts of a checkpoint or an export: what selections tell of the task, and what is lost without each expert.

lzero experts runs/atari_cpu_moe
lzero experts released/catch_moe.zip
lzero experts runs/atari_cpu_moe/checkpoints/step_000600 --windows 1024 --episodes 8

Shape legend: T = tasks, E = routed experts, B = windows of all tasks, A = ablations, Q = loss terms, L = terms and their total,
N = episodes.
"""

import logging
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import rich
import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lzero import checks
from lzero.analysis.ablation import parts_of, resampled_means, switched_off, with_interval
from lzero.analysis.expert_analysis import (
    ANALYSIS_FILE,
    TOTAL,
    Ablation,
    ExpertAnalysis,
    LayerSelection,
)
from lzero.analysis.specialisation import NullTest, router_null
from lzero.checkpoint import CheckpointError
from lzero.device import DeviceError, resolve_device
from lzero.distributed import Distributed, init_distributed
from lzero.entry.analysed_windows import Advance, check_kind, drawn_windows, kept_replay
from lzero.entry.checkpointing import RunError
from lzero.entry.eval_unizero_multitask import (
    find_checkpoint,
    load_policy,
    results_folder,
    state_of_checkpoint,
)
from lzero.entry.evaluation import GameEvaluator
from lzero.entry.expert_tables import analysis_tables
from lzero.entry.played_replay import played_replay, steps_to_play
from lzero.entry.shards import RankShare
from lzero.envs.domain import check_trusted
from lzero.logging import setup_logging
from lzero.policy.losses import TERMS
from lzero.policy.unizero_multitask import UniZeroMTPolicy
from lzero.policy.window_losses import (
    EncodedWindows,
    window_losses,
    window_selections,
)
from lzero.worker.actor import Actor

logger = logging.getLogger(
    "lzero.entry.analyse_experts"
)  # __name__ is "__main__" here, whose records are not shown

RESAMPLES = 2000  # of a bootstrap interval; its ends then move by about a twentieth of its length
LOSSES = TERMS[:-1]  # the last, the policy's entropy, is no loss


@dataclass(frozen=True)
class AnalyseCommand:
    """Analyse the experts of a UniZero checkpoint or an exported agent and write expert_analysis.json into the run's folder.

    Of windows drawn from the replay, or played anew where there is an export alone: mutual information between game and expert
    against a router that cannot know the game, effective numbers of experts, and how losses change when each expert, all of a
    layer, or the shared one is off. What is off contributes nothing; the router chooses as before. lzero report draws it.
    """

    path: tyro.conf.Positional[Path]
    """A run's folder or anything inside it (the newest checkpoint is taken), a checkpoint ``…/checkpoints/step_000123``, or an
    exported zip."""
    windows: int = 256
    """Windows per game, drawn from the replay as an update draws them. An export has no replay: its agent plays
    windows, exploring."""
    episodes: int = 0
    """Episodes per game that are played with each part off, and with none; 0 plays none. It takes as many evaluations as
    there are experts, and more."""
    permutations: int = 1000
    """Random labellings of the windows behind each p-value."""
    seed: int = 0
    """Seed of windows, permutations, intervals and episodes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; may differ from where the checkpoint was trained."""
    output_dir: Path | None = None
    """Folder for the result; the run's own if not given, and for ``NAME.zip`` ``NAME_results`` beside it."""
    allow_domain: tuple[str, ...] = ()
    """With ``--episodes``, or an export: domains outside of lzero and zoo, as ``module:ATTRIBUTE``, whose code may run because
    the checkpoint names them."""


@dataclass(frozen=True)
class _Subject:
    """What is analysed: the policy, windows by task, ascending, and what can be switched off."""

    policy: UniZeroMTPolicy
    windows: tuple[EncodedWindows, ...]
    parts: tuple[tuple[int, str], ...]  # layer and name

    @property
    def task(self) -> np.ndarray:
        """Of every window ``(B,)``."""
        return np.concatenate([part.batch.groups.host_task_id for part in self.windows])

    def losses(self) -> tuple[np.ndarray, np.ndarray]:
        """Terms of all windows, as the network is now, and the steps that count ``(Q, B)``."""
        sums, counts = [], []
        for part in self.windows:
            found, number = window_losses(self.policy, part)
            sums.append(found[: len(LOSSES)])
            counts.append(number[: len(LOSSES)])
        return np.concatenate(sums, axis=1), np.concatenate(counts, axis=1)

    def selections(self) -> np.ndarray:
        """Of all windows, layer by layer ``(layers, B, E)``."""
        found = []
        for part in self.windows:
            found.append(np.stack(list(window_selections(self.policy, part).values())))
        return np.concatenate(found, axis=1)

    def without(self, layer: int, part: str) -> AbstractContextManager[None]:
        """A context in which a part is off."""
        return switched_off(self.policy.routed_layers[layer], part)


def analyse_experts(
    path: Path | str,
    *,
    windows: int = 256,
    episodes: int = 0,
    permutations: int = 1000,
    seed: int = 0,
    device: str = "auto",
    output_dir: Path | str | None = None,
    allow_domains: Sequence[str] = (),
) -> ExpertAnalysis:
    """Analyse the experts of a checkpoint; the result also goes to ``expert_analysis.json`` in the run's folder.

    An export has no replay and no target network: its agent plays windows, exploring as in training, and targets come from the
    network itself. Its numbers are of the agent's own play, a run's of all that its replay still holds.

    Losses are those of an update, of the online network, without shifted pictures and with the policy targets that were
    stored; targets come from the target network, which is never touched. ``total`` is their sum with the weights of the
    experiment; spread, entropy bonus and the terms at predicted latents are not in it. Changes are paired: the same windows,
    and episodes of the same seeds. After an environment's first episode the two may have drawn differently, where its
    randomness goes on from episode to episode.

    Args:
        path: a run's folder, a checkpoint, or an exported zip.
        windows: per game, at least 2.
        episodes: per game and ablation; 0 for none.
        permutations: of the windows' tasks.
        seed: of everything random.
        device: ``auto``, ``cpu`` or ``cuda``.
        output_dir: folder of the result; None for the run's, or ``NAME_results`` beside ``NAME.zip``.
        allow_domains: of others, whose code may run for episodes, or for an export's windows.

    Raises:
        TypeError: if a path is none, or a number is no whole one.
        CheckpointError: if there is no checkpoint, it is damaged, or its replay cannot be read.
        ValueError: for numbers out of range, a policy without routed experts or replay (dense blocks, PPO), a replay without
            a window, or a domain that is not trusted.
        RunError: if an export's games need a package that is not there.
    """
    path = checks.path("path", path)
    checks.count("windows", windows, 2)
    checks.count("episodes", episodes, 0)
    checks.count("permutations", permutations)
    checks.count("seed", seed, 0)
    dist = init_distributed(resolve_device(device))
    checkpoint = find_checkpoint(path)
    is_export = checkpoint.is_file()
    folder = results_folder(checkpoint, output_dir)
    state = state_of_checkpoint(checkpoint)
    check_kind(state["config"], checkpoint)
    policy = load_policy(checkpoint, device=device, allow_domains=allow_domains)
    config = policy.config
    if episodes or is_export:
        check_trusted(config.env.domain, allow_domains, config.env.games)
    to_play = steps_to_play(config, windows) if is_export else 0
    replay = None if is_export else kept_replay(checkpoint, config)
    parts = []
    for layer, experts in policy.routed_layers.items():
        parts += [(layer, part) for part in parts_of(experts)]
    # one step for each task, then for the selections, the losses, and the episodes
    steps = to_play + config.num_tasks + 1 + (1 + len(parts)) * (1 + bool(episodes))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, disable=not dist.is_main, transient=True) as progress:
        bar = progress.add_task("drawing windows", total=steps)

        def advance() -> None:
            progress.advance(bar)

        if replay is None:
            progress.update(bar, description="playing windows")
            replay = played_replay(policy, windows, seed, dist, advance)
            progress.update(bar, description="drawing windows")
        rng = np.random.default_rng([seed, 0])
        drawn = drawn_windows(policy, replay, state, windows, rng, advance)
        subject = _Subject(policy, drawn, tuple(parts))
        del replay  # it may be large
        progress.update(bar, description="selections")
        layers = _layers(subject, permutations, np.random.default_rng([seed, 1]))
        advance()
        progress.update(bar, description="switching off")
        rng = np.random.default_rng([seed, 2])
        base, changes = _loss_changes(subject, rng, advance)
        returns, return_changes = None, None
        if episodes:
            progress.update(bar, description="playing")
            returns, return_changes = _return_changes(subject, dist, episodes, seed, rng, advance)
    ablations = []
    for number, (layer, part) in enumerate(parts):
        of_returns = None if return_changes is None else return_changes[:, number]
        ablations.append(Ablation(layer, part, changes[:, number], of_returns))
    analysis = ExpertAnalysis(
        checkpoint=checkpoint.name,
        train_iter=policy.train_iter,
        env_steps=state["env_steps"],
        seed=seed,
        permutations=permutations,
        games=tuple(config.env.games),
        terms=(*LOSSES, TOTAL),
        task=subject.task,
        layers=layers,
        loss=base,
        returns=returns,
        ablations=tuple(ablations),
        windows_from="play" if is_export else "replay",
    )
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ANALYSIS_FILE
    analysis.write(file)
    logger.info("wrote %s", file)
    return analysis


def _layers(
    subject: _Subject, permutations: int, rng: np.random.Generator
) -> dict[int, LayerSelection]:
    """Selections of every layer; all are tested with the same permutations."""
    task, num_tasks = subject.task, subject.policy.num_tasks
    counts = subject.selections()
    null = router_null(counts, task, num_tasks, permutations=permutations, rng=rng)
    found = {}
    for place, layer in enumerate(subject.policy.routed_layers):
        of_task = np.zeros((num_tasks, counts.shape[-1]), np.int64)
        np.add.at(of_task, task, counts[place])
        tests = _of_layer(null.information, place), _of_layer(null.entropy, place)
        found[layer] = LayerSelection(counts[place], of_task, *tests)
    return found


def _of_layer(test: NullTest, place: int) -> NullTest:
    """A test of one of several layers."""
    return NullTest(
        test.observed[place], test.mean[place], test.quantiles[:, place], test.p_value[place]
    )


def _loss_changes(
    subject: _Subject, rng: np.random.Generator, advance: Advance
) -> tuple[np.ndarray, np.ndarray]:
    """Losses with nothing off ``(L, T)``, and their changes with their intervals ``(3, A, L, T)``."""
    whole, counts = subject.losses()
    advance()
    differences = []
    for layer, part in subject.parts:
        with subject.without(layer, part):
            sums, _ = subject.losses()
        differences.append(sums - whole)
        advance()
    changes_AQB = np.stack(differences)
    weights_Q = np.array([getattr(subject.policy.config.policy.loss, name) for name in LOSSES])

    def with_total(means: np.ndarray) -> np.ndarray:
        """The total behind means ``(…, Q)``; a term without any step is no part of it."""
        total = np.nan_to_num(means) @ weights_Q
        return np.concatenate([means, total[..., None]], axis=-1)

    base, changes = [], []
    for task in range(subject.policy.num_tasks):
        own = subject.task == task
        means = resampled_means(whole[None, :, own], counts[:, own], resamples=0, rng=rng)
        base.append(with_total(means)[0, 0])
        means = resampled_means(changes_AQB[..., own], counts[:, own], resamples=RESAMPLES, rng=rng)
        changes.append(with_interval(with_total(means)))
    return np.stack(base, axis=-1), np.stack(changes, axis=-1)


def _return_changes(
    subject: _Subject,
    dist: Distributed,
    episodes: int,
    seed: int,
    rng: np.random.Generator,
    advance: Advance,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns with nothing off ``(T, N)``, and the changes of their means with their intervals ``(3, A, T)``."""
    policy, config = subject.policy, subject.policy.config
    everything = RankShare(tuple(range(config.num_tasks)), (), (), (0,) * config.num_tasks)
    evaluator = GameEvaluator(
        config,
        lambda env: Actor(policy, env.task_id, env.legal_actions, None),
        dist,
        everything,
    )

    def play() -> np.ndarray:
        """Scores ``(T, N)`` of the network as it is now."""
        table = evaluator.run([seed, policy.train_iter], episodes, None)
        advance()
        return np.stack([table.scores[game] for game in config.env.games])

    try:
        whole = play()
        differences = []
        for layer, part in subject.parts:
            with subject.without(layer, part):
                differences.append(play() - whole)
    finally:
        evaluator.close()
    changes_ATN = np.stack(differences)
    changes = []
    for task in range(config.num_tasks):
        means = resampled_means(
            changes_ATN[:, task, None], np.ones((1, episodes)), resamples=RESAMPLES, rng=rng
        )
        changes.append(with_interval(means[..., 0]))
    return whole, np.stack(changes, axis=-1)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; ``argv`` None takes the program's arguments."""
    command = tyro.cli(AnalyseCommand, prog="lzero experts", args=argv)
    setup_logging(is_main=True)
    try:
        analysis = analyse_experts(
            command.path,
            windows=command.windows,
            episodes=command.episodes,
            permutations=command.permutations,
            seed=command.seed,
            device=command.device,
            output_dir=command.output_dir,
            allow_domains=command.allow_domain,
        )
    except (CheckpointError, DeviceError, ImportError, OSError, RunError, ValueError) as error:
        sys.exit(f"error: {error}")
    rich.get_console().print(analysis_tables(analysis))


if __name__ == "__main__":
    main()
