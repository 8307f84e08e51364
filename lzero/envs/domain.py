"""What a domain offers the library: how its games are made, shown and scored."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from lzero.config import EnvConfig
from lzero.envs.multitask import MultiTaskVectorEnv


class Screen(Protocol):
    """Shows one evaluation environment at its native resolution, by playing the same episode a second time."""

    frames_per_second: int

    def reset(self, seed: int) -> np.ndarray:
        """First picture ``(height, width, 3)`` uint8 of the episode that ``seed`` starts."""

    def step(self, action: int) -> np.ndarray:
        """Picture after ``action``."""

    def close(self) -> None:
        """Free the environment."""


class Domain(Protocol):
    """A family of games. An experiment names it by import path (``env.domain``)."""

    games: tuple[str, ...]
    score_scale: str
    """What the common scale of scores is called, e.g. human-normalised."""

    def make(
        self,
        config: EnvConfig,
        games: Sequence[str],
        task_ids: Sequence[int],
        num_envs: Sequence[int],
        *,
        env_offsets: Sequence[int],
        training: bool,
        num_threads: int,
    ) -> MultiTaskVectorEnv:
        """Environments of the tasks ``task_ids`` (positions in ``games``).

        Args:
            config: how games are played.
            games: all games of the run; they fix the padded shapes, which must not depend on the rank.
            task_ids: the tasks of this rank.
            num_envs: environments of each of them.
            env_offsets: number of each one's first environment, where several ranks share a task.
            training: clip rewards and end episodes with a life, as ``config`` says; evaluation does neither.
            num_threads: threads that may emulate.
        """

    def normalised_score(self, game: str, score: float) -> float | None:
        """Score of ``game`` on the domain's common scale; None where there is none."""

    def reference_scores(self, game: str) -> Mapping[str, float]:
        """Raw scores to draw beside curves, by label, such as {'random': -20.7, 'human': 14.6}; empty if none known."""

    def make_screen(self, config: EnvConfig, game: str) -> Screen | None:
        """The screen of ``game`` for videos; None where the domain shows nothing."""
