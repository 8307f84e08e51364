"""Scores of a uniformly random policy on MinAtar, and the command that measures them.

    python -m zoo.minatar.scores                            # the presets' settings: measure and print
    python -m zoo.minatar.scores --minimal-actions --write  # another action set, and keep the result in scores.json

Published results are not shipped: none was found printed as numbers, with its settings.
"""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from lzero.envs import MultiTaskVectorEnv, TaskEnv
from lzero.worker.evaluator import Evaluation, evaluate
from zoo.minatar.envs import GAMES, NUM_ACTIONS, MinAtarVectorEnv, game_shape

SCORES_FILE = Path(__file__).with_name("scores.json")
LEAST_RANDOM_MEAN = 0.25
"""Multiples of a random policy's mean say nothing where that policy scores less than this."""
NUM_RESAMPLES = 2000
NUM_ENVS = 50


@dataclass(frozen=True)
class PlaySettings:
    """How games are played; the defaults are those of the presets."""

    sticky_action_probability: float = 0.1
    """Probability that the game repeats the action it executed last."""
    difficulty_ramping: bool = True
    """Games get harder with progress."""
    minimal_actions: bool = False
    """Draw from the actions that have an effect instead of from all six."""
    max_episode_steps: int = 2500
    """Time limit of an episode in env steps."""


@dataclass(frozen=True)
class RandomPlay:
    """What a uniformly random policy scores in one game."""

    mean: float
    """Mean score of an episode."""
    low: float
    """Lower end of the mean's 95 % bootstrap interval."""
    high: float
    """Its upper end."""
    episodes: int
    """Episodes played."""
    mean_length: float
    """Mean length of an episode in env steps."""
    seed: int
    """Of environments, actions and bootstrap."""


@dataclass(frozen=True)
class Command:
    """What to measure."""

    games: tuple[str, ...] = tuple(GAMES)
    """Which games."""
    episodes: int = 1000
    """Episodes per game."""
    seed: int = 0
    """Of environments, actions and bootstrap."""
    settings: tyro.conf.OmitArgPrefixes[PlaySettings] = PlaySettings()
    """How they are played."""
    write: bool = False
    """Keep the result, with its settings, in the data file beside this module."""


def random_play(game: str, settings: PlaySettings | None = None) -> RandomPlay:
    """The shipped measurement of ``game``.

    Args:
        game: name of a MinAtar game.
        settings: how it was played; None for the presets' settings.

    Raises:
        ValueError: if there is none, with the command that makes one.
    """
    settings = settings or PlaySettings()
    for entry in _data()["random"]:
        if entry["settings"] == asdict(settings) and game in entry["games"]:
            return RandomPlay(**entry["games"][game])
    raise ValueError(
        f"{SCORES_FILE.name} has no random policy's score of game={game!r} with {settings}; measure it: "
        f"python -m zoo.minatar.scores --games {game} --write (--help lists the settings)"
    )


def times_random(game: str, score: float) -> float | None:
    """Multiples of the random policy's mean with the presets' settings; None where that is nearly 0."""
    mean = random_play(game).mean
    return score / mean if mean >= LEAST_RANDOM_MEAN else None


def measure(
    game: str,
    settings: PlaySettings,
    episodes: int,
    seed: int,
    on_step: Callable[[int, int], None] | None = None,
) -> RandomPlay:
    """Play ``episodes`` episodes at random.

    Args:
        game: name of a MinAtar game.
        settings: how it is played.
        episodes: how many.
        seed: of environments, actions and bootstrap.
        on_step: told (episodes finished, episodes wanted) after every step.

    Raises:
        ValueError: if there are no episodes to play.
    """
    if episodes < 1:
        raise ValueError(f"episodes={episodes}; allowed is 1 or more")
    rng = np.random.default_rng(seed)
    played = _play(game, settings, episodes, seed, rng, on_step)
    score, length = played.score[0], played.length[0]
    means = [rng.choice(score, len(score)).mean() for _ in range(NUM_RESAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return RandomPlay(
        mean=round(float(score.mean()), 4),
        low=round(float(low), 4),
        high=round(float(high), 4),
        episodes=episodes,
        mean_length=round(float(length.mean()), 1),
        seed=seed,
    )


def store(path: Path, settings: PlaySettings, measured: Mapping[str, RandomPlay]) -> None:
    """Put measurements into the data file at ``path``, in place of earlier ones with the same settings."""
    data = json.loads(path.read_text(encoding="utf-8"))
    entries = [entry for entry in data["random"] if entry["settings"] == asdict(settings)]
    if not entries:
        entries = [{"settings": asdict(settings), "games": {}}]
        data["random"] += entries
    games = entries[0]["games"] | {game: asdict(play) for game, play in measured.items()}
    entries[0]["games"] = {game: games[game] for game in GAMES if game in games}
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Choice:
    """What an evaluation asks of a decision: actions ``(N,)`` int64."""

    action: np.ndarray


class _RandomActor:
    """Draws legal actions uniformly; takes an actor's place in an evaluation."""

    def __init__(self, num_envs: int, legal_actions: np.ndarray, rng: np.random.Generator) -> None:
        self.num_envs, self.legal_actions, self.rng = num_envs, legal_actions, rng

    def act(self, observation: np.ndarray) -> _Choice:
        """Choose without looking."""
        return _Choice(
            self.legal_actions[self.rng.integers(len(self.legal_actions), size=self.num_envs)]
        )

    def forget(self, ended: np.ndarray) -> None:
        """There is no memory."""


def _play(
    game: str,
    settings: PlaySettings,
    episodes: int,
    seed: int,
    rng: np.random.Generator,
    on_step: Callable[[int, int], None] | None,
) -> Evaluation:
    native = MinAtarVectorEnv(
        game,
        min(NUM_ENVS, episodes),
        max_episode_steps=settings.max_episode_steps,
        sticky=settings.sticky_action_probability,
        difficulty_ramping=settings.difficulty_ramping,
    )
    legal = (
        game_shape(game).minimal_actions if settings.minimal_actions else tuple(range(NUM_ACTIONS))
    )
    env = MultiTaskVectorEnv(
        [TaskEnv(native, task_id=0, name=game, layout="hwc", legal_actions=legal)]
    )
    try:
        actor = _RandomActor(env.num_envs, np.array(legal), rng)
        return evaluate(env, actor, episodes, seed, on_step=on_step)
    finally:
        env.close()


def main(command: Command, console: Console) -> None:
    """Measure, show a table, and keep the result if asked to."""
    settings = ", ".join(f"{field} {value}" for field, value in asdict(command.settings).items())
    table = Table(title="uniformly random policy", caption=settings)
    for header in ("game", "mean", "95 % interval", "episodes", "mean length"):
        table.add_column(header, justify="left" if header == "game" else "right")
    measured: dict[str, RandomPlay] = {}
    with Progress(console=console, transient=True) as progress:
        for game in command.games:
            bar = progress.add_task(game, total=command.episodes)

            def show(done: int, wanted: int, bar: Any = bar) -> None:
                progress.update(bar, completed=done, total=wanted)

            play = measured[game] = measure(
                game, command.settings, command.episodes, command.seed, show
            )
            interval = f"{play.low:.3f} to {play.high:.3f}"
            table.add_row(
                game, f"{play.mean:.3f}", interval, str(play.episodes), f"{play.mean_length:.1f}"
            )
    console.print(table)
    if command.write:
        store(SCORES_FILE, command.settings, measured)
        console.print(f"wrote {SCORES_FILE}")


@functools.cache
def _data() -> dict[str, Any]:
    return json.loads(SCORES_FILE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(tyro.cli(Command, description=__doc__), Console())
