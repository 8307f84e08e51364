"""What a world model learns from the replay of a run: no acting, so changes are compared on the same data.

    python benchmarks/world_model.py runs/afternoon/krull_dense_s0/checkpoints/step_024560
    python benchmarks/world_model.py runs/afternoon/krull_dense_s0/checkpoints/step_024560 --changes policy.loss.latent=2
    python benchmarks/world_model.py runs/afternoon/krull_dense_s0/checkpoints/step_024560 --trained

Trains a fresh policy on a checkpoint's replay, all environments but the last quarter, and prints what it predicts on
those: correlation of rewards and of values with what came (a value with the discounted rewards to the end of its life or game),
recall and precision of rewards, and the same of rewards that are imagined ahead. Steps without enough history do not count.

--trained trains nothing: it prints what the checkpoint's own network predicts on its replay, by age. The newest rows have
hardly been learned from; where older ones are predicted far better, they are known by heart.
"""

import lzero  # noqa: F401, I001  (before torch: it sets how OpenMP threads wait)

import argparse
import itertools
import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from lzero.checkpoint import load_state
from lzero.config import ExperimentConfig
from lzero.entry.checkpointing import load_policy_state
from lzero.envs.domain import with_domain_settings
from lzero.model.unizero_world_models.world_model_multitask import Timeline
from lzero.nn.tasks import TaskGroups
from lzero.policy import UniZeroMTPolicy
from lzero.replay.augmentation import with_random_shifts
from lzero.replay.buffer import ReplayBuffer
from lzero.replay.rings import RESET, TERMINATED
from lzero.replay.windows import ReplayWindows

HELD_OUT = 4  # one environment of so many
AHEAD = 5  # imagined steps


def changed(config: dict, changes: list[str]) -> ExperimentConfig:
    """``config`` with fields by dotted path, ``a.b=value`` in JSON."""
    for change in changes:
        path, _, value = change.partition("=")
        *sections, field = path.split(".")
        node = config
        for section in sections:
            node = node[section]
        try:
            node[field] = json.loads(value)
        except json.JSONDecodeError:
            node[field] = value
    return with_domain_settings(config)


def replays(
    checkpoint: Path, config: ExperimentConfig
) -> tuple[ReplayBuffer, ReplayBuffer, ReplayBuffer]:
    """To learn from, to look at, and all together, from a checkpoint of one process."""
    state = load_state(checkpoint)
    task_id = np.repeat(
        np.arange(config.num_tasks), [config.env.envs_of(game) for game in config.env.games]
    )
    shape, num_actions = tuple(state["observation_shape"]), len(state["legal_actions"][0])

    def empty(rings: np.ndarray, window: int) -> ReplayBuffer:
        past = config.policy.burn_in_steps
        return ReplayBuffer(
            rings, config.ring_length(), shape, np.uint8, num_actions, window, past=past
        )

    then = ExperimentConfig.model_validate(state["config"])
    whole = empty(task_id, then.policy.window)
    whole.load(checkpoint / "rank_0", suffix="rank")
    is_seen = np.arange(len(task_id)) % HELD_OUT == HELD_OUT - 1
    parts = []
    for rings in (~is_seen, is_seen):
        part = empty(task_id[rings], config.policy.window)
        part._frames, part._rows, part._head = whole._frames[rings], whole._rows[rings], whole.head
        parts.append(part)
    return parts[0], parts[1], whole


def realised(replay: ReplayBuffer, discount: float) -> np.ndarray:
    """Discounted rewards to the end of a row's episode ``(rings, rows)``; NaN where that is not in the replay."""
    slots = replay._live_slots()
    rows = replay._rows[:, slots]
    returns = np.full(rows.shape, np.nan)
    following = np.full(len(rows), np.nan)
    for row in range(rows.shape[1] - 1, -1, -1):
        flags, reward = rows["flags"][:, row], rows["reward"][:, row]
        ends = (flags & TERMINATED) > 0
        following = np.where(ends, reward, reward + discount * following)
        # a time limit cuts the episode, and its return is not known
        following = np.where((flags & RESET) > 0, np.nan, following)
        returns[:, row] = following
    return returns


class Look:
    """Predictions on the held-out windows, batch after batch."""

    def __init__(self, policy: UniZeroMTPolicy, replay: ReplayBuffer, batches: int) -> None:
        self.policy, self.replay, self.batches = policy, replay, batches
        self.returns = realised(replay, policy.config.policy.discount)

    def __call__(self) -> dict[str, float]:
        """Numbers of windows from anywhere."""
        rng = np.random.default_rng(0)
        sizes = dict.fromkeys(range(self.policy.config.num_tasks), 32)
        return self._numbers_of(self.replay.sample(sizes, rng) for _ in range(self.batches))

    def by_age(self) -> dict[str, dict[str, float]]:
        """Numbers of windows that begin so many rows behind the newest one, by that."""
        replay, found = self.replay, {}
        every = np.arange(replay.num_rings)
        oldest = replay.head - replay.oldest
        for youngest, eldest in itertools.pairwise((replay.window, 60, 200, 600, 2000, oldest)):
            if eldest > youngest:
                ages = np.unique(np.linspace(youngest, eldest - 1, 40).astype(int))
                windows = (
                    replay._gather(
                        every, np.full_like(every, replay.head - age), np.ones(len(every))
                    )
                    for age in ages
                )
                found[f"{youngest} to {eldest} rows old"] = self._numbers_of(windows)
        return found

    @torch.no_grad()
    def _numbers_of(self, batches: Iterable[ReplayWindows]) -> dict[str, float]:
        pairs: dict[str, list[np.ndarray]] = {}
        for windows in batches:
            for name, found in self._batch(windows).items():
                pairs.setdefault(name, []).append(found)
        return {
            name: value
            for name, found in pairs.items()
            for name, value in _numbers(name, np.concatenate(found, axis=1)).items()
        }

    def _batch(self, windows) -> dict[str, np.ndarray]:
        policy, settings = self.policy, self.policy.config.policy
        first, steps = settings.burn_in_steps, settings.unroll_steps + 1
        context = min(policy.config.model.context_steps - 1, steps - AHEAD - 1)
        groups = TaskGroups.of(windows.task_id, policy.device)
        present = slice(first, first + steps)
        episode, action = windows.episode[:, present], windows.action[:, present]
        latent = policy.model.encode(windows.observation[:, present], groups)
        output = policy.model.world_model(latent, action[:, :-1], groups, Timeline(episode))
        reward, acting = windows.reward[:, : steps - 1].numpy(), ~windows.reset[:, :steps].numpy()
        guessed = policy.support.expectation(output.reward).numpy()
        counted = acting[:, :-1].copy()
        counted[:, :context] = False
        pairs = {"reward": np.stack([guessed[counted], reward[counted]])}
        ring, step = windows.index.numpy().T
        came = self.returns[ring[:, None], step[:, None] - self.replay.oldest + np.arange(steps)]
        known = acting & ~np.isnan(came)
        known[:, :context] = False
        value = policy.support.expectation(output.value).numpy()
        pairs["value"] = np.stack([value[known], came[known]])
        imagined, root = latent.clone(), steps - 1 - AHEAD
        for ahead in range(1, AHEAD + 1):
            at = root + ahead - 1
            seen = slice(at + 2)
            output = policy.model.world_model(
                imagined[:, seen], action[:, : at + 1], groups, Timeline(episode[:, seen])
            )
            imagined[:, at + 1] = policy.model.encoder.norm(output.next_latent[:, at])
            goes_on = acting[:, at] & (episode[:, at] == episode[:, root]).numpy()
            guess = policy.support.expectation(output.reward[:, at]).numpy()
            pairs[f"reward_{ahead}"] = np.stack([guess[goes_on], reward[goes_on, at]])
        goes_on = (episode[:, root] == episode[:, -1]).numpy()
        right = latent[:, -1].numpy()[goes_on]
        errors = [
            np.square(x.numpy()[goes_on] - right).mean(axis=1)
            for x in (imagined[:, -1], latent[:, root])
        ]
        return pairs | {"latent_ahead": np.stack(errors)}


def _numbers(name: str, pairs: np.ndarray) -> dict[str, float]:
    guessed, came = pairs
    if name == "latent_ahead":  # errors of imagining and of copying
        return {name: guessed.sum() / came.sum()}
    found = {f"{name}_corr": np.corrcoef(guessed, came)[0, 1]}
    if name == "reward":
        claims, hits = np.abs(guessed) > 0.5, guessed * came > 0
        found["recall"] = (claims & hits).sum() / max(1, (came != 0).sum())
        found["precision"] = (claims & hits).sum() / max(1, claims.sum())
    if name == "value":
        found |= {"value_mean": guessed.mean(), "return_mean": came.mean()}
    return found


def _line(numbers: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in numbers.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="folder of a checkpoint")
    parser.add_argument(
        "--changes", nargs="*", default=[], metavar="FIELD=VALUE", help="of the config"
    )
    parser.add_argument("--updates", type=int, default=3000, help="of the policy")
    parser.add_argument("--looks", type=int, default=3, help="how often to look")
    parser.add_argument("--batches", type=int, default=30, help="of 32 windows per game to look at")
    parser.add_argument(
        "--trained", action="store_true", help="look at the checkpoint's own network"
    )
    parser.add_argument("--seed", type=int, default=0, help="of parameters and sampling")
    args = parser.parse_args()
    state = load_state(args.checkpoint)
    config = changed(state["config"], args.changes)
    learning, held_out, whole = replays(args.checkpoint, config)
    torch.manual_seed(args.seed)
    policy = UniZeroMTPolicy(
        config, tuple(state["observation_shape"]), np.array(state["legal_actions"])
    )
    if args.trained:
        policy.load_state_dict(load_policy_state(args.checkpoint, policy.device))
        for age, numbers in Look(policy, whole, args.batches).by_age().items():
            print(f"{age}: {_line(numbers)}", flush=True)
        return
    look, rng = Look(policy, held_out, args.batches), np.random.default_rng(args.seed)
    sizes = {task: config.batch_size_of(game) for task, game in enumerate(config.env.games)}
    spent = 0.0
    for update in range(1, args.updates + 1):
        start = time.process_time()
        windows = with_random_shifts(learning.sample(sizes, rng), config.policy.shift_pixels, rng)
        policy.learn(windows)
        spent += time.process_time() - start
        if update % (args.updates // args.looks) == 0:
            print(f"{update} updates, {spent:.0f} s CPU: {_line(look())}", flush=True)


if __name__ == "__main__":
    main()
