"""What a domain offers the library: its settings, and how its games are made, shown and scored.

Experiments name a domain by its import path, or a built-in one by a short name. Nothing of it is imported before it is asked
for here.
"""

import importlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from lzero import checks
from lzero.config import READ_ENV, EnvConfig, Experiment, ExperimentConfig, nearest
from lzero.envs.multitask import MultiTaskVectorEnv
from lzero.envs.random_scores import RandomScore

E = TypeVar("E", bound=Experiment)


class Screen(Protocol):
    """Shows one evaluation environment at its native resolution, by playing the same episode a
    second time."""

    frames_per_second: int

    def reset(self, seed: int) -> np.ndarray:
        """First picture ``(height, width, 3)`` uint8 of the episode that ``seed`` starts."""

    def step(self, action: int) -> np.ndarray:
        """Picture after ``action``."""

    def close(self) -> None:
        """Free the environment."""


class Domain(Protocol):
    """A family of games. An experiment names it by import path (``env.domain``)."""

    @property
    def games(self) -> tuple[str, ...]:
        """Names of the games there are."""

    @property
    def settings(self) -> type[EnvConfig]:
        """Class of an experiment's section ``env``: :class:`~lzero.config.EnvConfig`, or one that
        extends it by the domain's own fields. A domain that names none has none of its own."""

    @property
    def score_scale(self) -> str:
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
            config: how games are played; :meth:`EnvConfig.read` makes it the domain's own.
            games: all games of the run; they fix the padded shapes, which must not depend on the
                rank.
            task_ids: the tasks of this rank.
            num_envs: environments of each of them.
            env_offsets: number of each one's first environment, where several ranks share a task.
            training: clip rewards and end episodes with a life, as ``config`` says; evaluation does
                neither.
            num_threads: threads that may emulate.
        """

    def normalised_score(self, game: str, score: float) -> float | None:
        """Score of ``game`` on the domain's common scale; None where there is none."""

    def reference_scores(self, game: str) -> Mapping[str, float]:
        """Raw scores to draw beside curves, by label, such as {'random': -20.7, 'human': 14.6};
        empty if none are known."""

    def make_screen(self, config: EnvConfig, game: str) -> Screen | None:
        """The screen of ``game`` for videos; None where the domain shows nothing."""


class OpenDomain(Protocol):
    """A domain that offers more games than it can list: it says itself whether it can make those of a run."""

    def check_games(self, config: EnvConfig) -> None:
        """Look at ``config.games``, with the domain's own settings.

        Raises:
            ValueError: if one cannot be made, or they cannot be learned together; why, and what to do.
        """


@runtime_checkable
class MeasuredDomain(Protocol):
    """A domain that knows no random player's scores: every run measures them once, before its first evaluation."""

    def with_random_scores(self, random: Mapping[str, RandomScore]) -> Domain:
        """The domain as it scores games in which a random policy got ``random``, by game."""


SHORT_NAMES = {
    name: f"zoo.{name}.domain:{name.upper()}"
    for name in ("atari", "minatar", "catch", "classic_control", "gym")
}
"""Import paths of the built-in domains by what may be typed instead. Written configs have the paths."""


def full_path(path: str) -> str:
    """Import path of the domain that is named by it, or by its short name."""
    return SHORT_NAMES.get(path, path)


def check_trusted(path: str, allowed: Collection[str] = (), games: Sequence[str] = ()) -> None:
    """As :func:`lzero.checks.check_trusted`; of a built-in domain the short name will do."""
    checks.check_trusted(full_path(path), allowed, games)


def load_domain(path: str) -> Domain:
    """The domain at ``module:attribute``, or that of a short name.

    Raises:
        TypeError: if it is no text.
        ValueError: if the path is malformed, nothing is there, or what is there has no ``games``.
    """
    checks.instance("path", path, str, "a text")
    module, _, attribute = full_path(path).partition(":")
    try:
        domain = getattr(importlib.import_module(module), attribute)
        domain.games  # noqa: B018 (anything else that is importable is refused here too)
        return domain
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"env.domain={path!r} cannot be imported ({error}); write it as "
            "'package.module:ATTRIBUTE', e.g. 'zoo.atari.domain:ATARI', and run from a place where "
            f"that package is importable, or as one of {', '.join(SHORT_NAMES)}"
        ) from error


def check_made(
    known: Collection[str],
    games: Sequence[str],
    task_ids: Sequence[int],
    num_envs: Sequence[int],
    env_offsets: Sequence[int],
) -> None:
    """Refuse what no domain can make, for :meth:`Domain.make`.

    Args:
        known: the domain's games.
        games, task_ids, num_envs, env_offsets: as there.

    Raises:
        ValueError: for an unknown game, a task that is none of ``games``, or other lengths.
    """
    checks.names("games", games)
    for game in games:
        if game not in known:
            raise ValueError(f"games: unknown game {game!r}; {nearest(game, list(known))}")
    for task in task_ids:
        if not 0 <= task < len(games):
            raise ValueError(f"task_ids={list(task_ids)}: allowed are 0 to {len(games) - 1}")
    for name, numbers in (("num_envs", num_envs), ("env_offsets", env_offsets)):
        if len(numbers) != len(task_ids):
            raise ValueError(
                f"{name}={list(numbers)} are {len(numbers)} numbers for {len(task_ids)} tasks"
            )


def with_domain_settings(config: ExperimentConfig | Mapping[str, Any]) -> ExperimentConfig:
    """The experiment with its domain's own section ``env``, checked; the domain is imported for it.

    Raises:
        pydantic.ValidationError: if the config is not valid, the domain cannot be loaded, or it
            does not know a game or a setting; with what to type instead.
    """
    return read_experiment(ExperimentConfig, config)


def read_experiment(kind: type[E], config: E | Mapping[str, Any]) -> E:
    """An experiment of any ``kind``, as :func:`with_domain_settings` reads UniZero's."""
    data = dict(config) if isinstance(config, Experiment) else config
    return kind.model_validate(data, context={READ_ENV: _as_its_domain_reads_it})


def _as_its_domain_reads_it(env: EnvConfig) -> EnvConfig:
    domain = load_domain(env.domain)
    if env.domain in SHORT_NAMES:
        env = env.model_copy(update={"domain": full_path(env.domain)})
    settings: type[EnvConfig] = getattr(domain, "settings", EnvConfig)
    read = settings.read(env)
    if hasattr(domain, "check_games"):
        domain.check_games(read)
        return read
    for game in read.games:
        if game not in domain.games:
            raise ValueError(
                f"env.games: unknown game {game!r} of {env.domain}; "
                f"{nearest(game, list(domain.games))}"
            )
    return read
