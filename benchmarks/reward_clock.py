"""When rewards come under random play: those that come by a clock are not predicted by what is seen.

python benchmarks/reward_clock.py UpNDown

For every size of reward how many there were, and of the env steps between two of them the commonest number and the share of its
multiples. 4 frames an env step, no sticky actions, 20,000 env steps.
"""

from collections import defaultdict
from dataclasses import dataclass

import ale_py
import gymnasium
import numpy as np
import tyro


@dataclass(frozen=True)
class Arguments:
    """Play a game at random."""

    game: tyro.conf.Positional[str] = "UpNDown"
    """Name of an Atari game."""
    steps: int = 20_000
    """Env steps."""


def main() -> None:
    """Play and print."""
    arguments = tyro.cli(Arguments)
    gymnasium.register_envs(ale_py)
    env = gymnasium.make(f"ALE/{arguments.game}-v5", frameskip=4, repeat_action_probability=0)
    env.reset(seed=0)
    rng, when = np.random.default_rng(0), defaultdict(list)
    for step in range(arguments.steps):
        _, reward, over, cut, _ = env.step(rng.integers(env.action_space.n))
        if reward:
            when[reward].append(step)
        if over or cut:
            env.reset()
    for reward, steps in sorted(when.items()):
        gaps = np.diff(steps)
        if len(gaps):
            common = np.bincount(gaps).argmax()
            share = f"; most often {common} env steps apart, {(gaps % common == 0).mean():.0%} a multiple of it"
        else:
            share = ""
        print(f"reward {reward:g}: {len(steps)}{share}")


if __name__ == "__main__":
    main()
