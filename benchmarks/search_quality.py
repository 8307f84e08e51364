"""How well policies learn from the targets of a search, by kind, simulations, m, σ's constant and number of actions.

    python benchmarks/search_quality.py
    python benchmarks/search_quality.py --actions 6 --noise 0.1

A paddle must be under a ball when it lands: a state is their distance and the env steps that are left, a third of the actions
moves left, a third right, a third does nothing. The search knows the dynamics; what it lacks are exact values: at every node it
reads the value of the policy that is being learned, plus noise that is drawn anew for every state in every round. A round
searches all states and moves the policy a tenth of the way to the targets. Printed are, after some rounds, the return of an
agent that searches as when it is evaluated, and behind a bar that of the policy alone; 1 is the best one and 0 that of uniform
actions. Means over repetitions; the largest standard error stands below.
"""

import argparse
import itertools

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from lzero.config import SearchConfig
from lzero.mcts.kernels import Edges
from lzero.mcts.search import Answers, RootNoise, make_tree, search

FURTHEST, LONGEST = 10, 10  # largest distance, most env steps left
REACH = 1  # half of the paddle
DISCOUNT = 0.997
MOST_SIMULATIONS = 50
STEP = 0.1  # way of the policy to its target
DISTANCE = np.arange(-FURTHEST, FURTHEST + 1)


class Chase:
    """The game, a tabular policy ``(T, D, A)`` for every state, and what a search reads of it.

    Shape legend: T = env steps left (0 is the end), D = distances, A = actions, N = roots: all states with steps left.
    """

    def __init__(self, num_actions: int, noise: float, rng: np.random.Generator) -> None:
        self.noise, self.rng, self.num_actions = noise, rng, num_actions
        self.move = np.sort(np.arange(num_actions) % 3) - 1
        self.policy = np.full(
            (LONGEST + 1, len(DISTANCE), num_actions), 1 / num_actions, np.float32
        )
        self.left, self.place = (
            grid.ravel() for grid in np.mgrid[1 : LONGEST + 1, 0 : len(DISTANCE)]
        )
        self.seen = np.zeros((1, 1))
        self.cache = (self.left[:, None], self.place[:, None])  # of every node (N, M + 1)

    def moved(self, place: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Places after actions."""
        return np.clip(place + self.move[action], 0, len(DISTANCE) - 1)

    def values(self, policy: np.ndarray) -> np.ndarray:
        """Expected outcome of a policy ``(T, D)``, +1 for a ball that is caught and −1 for one that is not."""
        values = np.zeros(policy.shape[:2])
        values[0] = np.where(np.abs(DISTANCE) <= REACH, 1.0, -1.0)
        places = np.arange(len(DISTANCE))[:, None]
        behind = self.moved(places, np.arange(self.num_actions))  # (D, A)
        for left in range(1, LONGEST + 1):
            values[left] = DISCOUNT * (policy[left] * values[left - 1][behind]).sum(axis=1)
        return values

    def best(self) -> np.ndarray:
        """The best policy."""
        towards = -np.sign(DISTANCE)[:, None] == self.move
        policy = towards / towards.sum(axis=1, keepdims=True)
        return np.broadcast_to(policy, self.policy.shape)

    def look(self) -> None:
        """Read the values of the policy, with noise."""
        values = self.values(self.policy)
        self.seen = values + self.rng.normal(scale=self.noise, size=values.shape)

    # What a search asks of a model; the root inference is the game itself.
    def begin(self, root: "Chase", legal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of all states that have steps left."""
        shape = (len(self.left), MOST_SIMULATIONS + 1)
        left, place = (np.broadcast_to(x[:, None], shape).copy() for x in (self.left, self.place))
        self.cache = left, place
        return self.policy[self.left, self.place], self.seen[self.left, self.place].astype("f4")

    def expand(
        self, cache: tuple[np.ndarray, np.ndarray], edges: Edges, legal: np.ndarray
    ) -> Answers:
        """Exact dynamics; the outcome is a reward on the last step, behind which nothing comes."""
        lefts, places = cache
        left = np.maximum(lefts[edges.root, edges.parent] - 1, 0)
        place = self.moved(places[edges.root, edges.parent], edges.action)
        lefts[edges.root, edges.node], places[edges.root, edges.node] = left, place
        ends = left == 0
        outcome = np.where(np.abs(DISTANCE[place]) <= REACH, 1.0, -1.0)
        numbers = (ends * outcome, np.where(ends, 0.0, self.seen[left, place]), ~ends)
        return Answers(*(x.astype(np.float32) for x in numbers), self.policy[left, place])


def learned(
    config: SearchConfig, num_actions: int, noise: float, rounds: int, seed: int
) -> tuple[float, float]:
    """Returns after some rounds, of searching and of the policy alone, between uniform actions' (0) and the best (1)."""
    rng = np.random.default_rng(seed)
    game = Chase(num_actions, noise, rng)
    legal = np.ones((len(game.left), num_actions), bool)
    low, high = (game.values(policy)[1:].mean() for policy in (game.policy, game.best()))
    tree = make_tree(
        config, len(legal), config.num_simulations, num_actions, discount=DISCOUNT, rng=rng
    )
    root_noise = None
    if config.kind == "puct":
        root_noise = RootNoise(config.dirichlet_alpha, config.dirichlet_weight, rng)
    for _ in range(rounds):
        game.look()
        target = search(game, game, legal, tree, root_noise).policy()
        game.policy[game.left, game.place] += STEP * (target - game.policy[game.left, game.place])
    game.look()
    acting = make_tree(
        config, len(legal), config.num_simulations, num_actions, discount=DISCOUNT, rng=None
    )
    chosen = search(game, game, legal, acting).actions(1.0, None)
    searching = np.zeros_like(game.policy)
    searching[game.left, game.place, chosen] = 1
    return tuple(
        (game.values(policy)[1:].mean() - low) / (high - low) for policy in (searching, game.policy)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--actions", type=int, nargs="+", default=[3, 6, 18], help="how many there are"
    )
    parser.add_argument(
        "--noise", type=float, nargs="+", default=[0.03, 0.1, 0.3], help="of values"
    )
    parser.add_argument("--rounds", type=int, default=30, help="of learning")
    parser.add_argument("--repetitions", type=int, default=5, help="with other noise")
    args = parser.parse_args()
    searches = {f"puct, {m}": SearchConfig(kind="puct", num_simulations=m) for m in (8, 16, 25, 50)}
    for simulations, considered, scale in (
        *((m, 16, 0.1) for m in (4, 8, 16, 25, 50)),
        *((16, considered, 0.1) for considered in (2, 4, 8)),
        *((16, 16, scale) for scale in (0.01, 0.03, 0.3)),
    ):
        searches[f"gumbel, {simulations}, m {considered}, c_scale {scale}"] = SearchConfig(
            kind="gumbel",
            num_simulations=simulations,
            max_considered_actions=considered,
            c_scale=scale,
        )
    cells = list(itertools.product(args.actions, args.noise))
    table = Table(title=f"share of the best policy's return after {args.rounds} rounds")
    table.add_column("search")
    for num_actions, noise in cells:
        table.add_column(f"{num_actions} actions\nnoise {noise}")
    worst = 0.0
    with Progress(transient=True) as progress:
        bar = progress.add_task("searches", total=len(searches) * len(cells))
        for name, config in searches.items():
            row = [name]
            for num_actions, noise in cells:
                shares = [
                    learned(config, num_actions, noise, args.rounds, seed)
                    for seed in range(args.repetitions)
                ]
                worst = max(worst, np.std(shares, axis=0, ddof=1).max() / len(shares) ** 0.5)
                row.append(" | ".join(f"{mean:.3f}" for mean in np.mean(shares, axis=0)))
                progress.advance(bar)
            table.add_row(*row)
    table.caption = f"searching | policy alone; standard errors are at most {worst:.3f}"
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
