"""Atari 2600 games through ALE's C++ vector environment (ROMs come with ``ale_py``).

Defaults: frame skip 4, maximum of the last two frames, no sticky actions, random no-ops at reset,
64 × 64 RGB, no frame stack, the full set of 18 actions. ALE alone skips frames. Rewards are clipped
and lives cut by :class:`~lzero.envs.MultiTaskVectorEnv`, not by ALE: the true score stays known,
and a game goes on after a death.
"""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from ale_py import ALEInterface, LoggerMode, roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from lzero import checks
from lzero.envs import MultiTaskVectorEnv, TaskEnv
from lzero.envs.port import ReplayablePort

ATARI8 = ("Pong", "MsPacman", "Seaquest", "Boxing", "Alien", "ChopperCommand", "Hero", "RoadRunner")
"""The 8 games of the ScaleZero study (arXiv 2509.07945)."""

ATARI26 = (
    *ATARI8,
    *("Amidar", "Assault", "Asterix", "BankHeist", "BattleZone", "CrazyClimber", "DemonAttack"),
    *("Freeway", "Frostbite", "Gopher", "Jamesbond", "Kangaroo", "Krull", "KungFuMaster"),
    *("PrivateEye", "UpNDown", "Qbert", "Breakout"),
)
"""The 26 games of the Atari-100k benchmark (arXiv 1903.00374)."""

NUM_ACTIONS = 18
SCREEN_HEIGHT, SCREEN_WIDTH = 210, 160
CONSOLE_FRAMES_PER_SECOND = 60
MAX_EPISODE_STEPS = 27_000
"""Default time limit in env steps: 108,000 frames, half an hour of play."""

RESEED_AFTER = 2000
"""Env steps after which the next episode gets a new seed. Seeding loads the ROM again, which takes as long as 200 env steps; a
run that continues plays again what came since: so many steps and an episode, at some thousand steps a second."""


@functools.cache
def _roms() -> dict[str, str]:
    """ROM of every game that ALE ships, by CamelCase name."""
    by_name = {}
    for rom in roms.get_all_rom_ids():
        by_name["".join(word.capitalize() for word in rom.split("_"))] = rom
    return by_name


def all_games() -> tuple[str, ...]:
    """CamelCase names of all games that ALE ships."""
    return tuple(sorted(_roms()))


def rom_name(game: str) -> str:
    """ALE's name of a game: ``"MsPacman"`` → ``"ms_pacman"``.

    Raises:
        TypeError: if it is no text.
        ValueError: if ALE ships no such game; the message names the nearest one.
    """
    checks.instance("game", game, str, "a CamelCase name")
    if game not in _roms():
        by_lower_case = {name.lower(): name for name in _roms()}
        wanted = game.lower().replace("_", "")
        [match] = difflib.get_close_matches(wanted, by_lower_case, n=1, cutoff=0.0)
        nearest = by_lower_case[match]
        raise ValueError(
            f"game {game!r} is unknown to ALE; did you mean {nearest!r}? (names are CamelCase)"
        )
    return _roms()[game]


@functools.cache
def minimal_actions(game: str) -> tuple[int, ...]:
    """The actions that have an effect in a game, as numbers of the full set of 18: 6 in Pong.

    Raises:
        ValueError: for an unknown game.
    """
    ALEInterface.setLoggerMode(LoggerMode.Error)
    emulator = ALEInterface()
    path = roms.get_rom_path(rom_name(game))
    assert path is not None  # rom_name knows no other games than those of the package
    emulator.loadROM(path)
    return tuple(sorted(action.value for action in emulator.getMinimalActionSet()))


class SeedableAtariVectorEnv(AtariVectorEnv):
    """ALE's vector env with gymnasium's way of seeding single environments: a seed for each of them, also for those that the
    option ``reset_mask`` leaves alone."""

    def reset(
        self,
        *,
        seed: int | np.ndarray | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, np.ndarray]]:
        """Begin an episode in every environment, or where ``options["reset_mask"] (n,)`` says."""
        if seed is None or isinstance(seed, int):
            return super().reset(seed=seed, options=options)
        everywhere = np.ones(self.num_envs, np.bool_)
        where = (options or {}).get("reset_mask", everywhere)
        return super().reset(seed=np.array(seed)[where], options=options)


def make_atari_vector_env(
    game: str,
    num_envs: int,
    *,
    max_episode_steps: int = MAX_EPISODE_STEPS,
    noop_max: int = 30,
    sticky: float = 0.0,
    num_threads: int = 1,
    image_size: int | tuple[int, int] = 64,
    frame_skip: int = 4,
    grayscale: bool = False,
    frame_stack: int = 1,
) -> SeedableAtariVectorEnv:
    """Environments of one game, true rewards, one life or many as the game has them.

    Args:
        game: CamelCase name, e.g. ``"MsPacman"``.
        num_envs: n.
        max_episode_steps: time limit in env steps of ``frame_skip`` frames; no-ops do not count.
        noop_max: every episode starts after 0 to this many no-op frames, drawn uniformly.
        sticky: probability per frame that the emulator repeats the previous action.
        num_threads: C++ threads that emulate; they sleep while nothing is to do.
        image_size: side, or (height, width), of the area-resized picture in pixels.
        frame_skip: frames per env step.
        grayscale: shades of gray instead of colours.
        frame_stack: F, last frames in one observation.

    Returns:
        Observations ``(n, F, H, W, 3)`` uint8, in gray ``(n, F, H, W)``, 18 actions, autoreset NEXT_STEP. ALE draws no
        picture of the frame that ends an episode: an episode's last observation still holds pixels
        of the step before.

    Raises:
        ValueError: for an unknown game or a number out of range.
    """
    checks.count("num_envs", num_envs)
    checks.count("max_episode_steps", max_episode_steps)
    checks.count("frame_skip", frame_skip)
    checks.count("frame_stack", frame_stack)
    # ALE reads 0 threads as "all cores", which would starve torch
    checks.count("num_threads", num_threads)
    checks.count("noop_max", noop_max, 0)
    checks.number("sticky", sticky, 0.0, 1.0)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width) < 1:
        raise ValueError(f"image_size={image_size}: allowed are whole numbers from 1 on")
    return SeedableAtariVectorEnv(
        rom_name(game),
        num_envs,
        num_threads=num_threads,
        max_num_frames_per_episode=max_episode_steps * frame_skip,
        repeat_action_probability=sticky,
        full_action_space=True,
        autoreset_mode=AutoresetMode.NEXT_STEP,
        img_height=height,
        img_width=width,
        grayscale=grayscale,
        stack_num=frame_stack,
        frameskip=frame_skip,
        maxpool=frame_skip > 1,
        noop_max=noop_max + 1,  # ALE draws from 0 to noop_max - 1
        episodic_life=False,
        life_loss_info=False,
        reward_clipping=False,
        use_fire_reset=False,
    )


def make_atari_multitask_env(
    games: Sequence[str],
    task_ids: Sequence[int],
    num_envs_per_task: int | Sequence[int],
    *,
    training: bool,
    env_offsets: int | Sequence[int] = 0,
    max_episode_steps: int | Sequence[int] = MAX_EPISODE_STEPS,
    clip_reward: bool | Sequence[bool] | None = None,
    end_on_life_loss: bool | Sequence[bool] | None = None,
    num_threads: int = 1,
    noop_max: int = 30,
    sticky: float = 0.0,
    image_size: int = 64,
    frame_skip: int = 4,
    grayscale: bool = False,
    frame_stack: int = 1,
    only_minimal_actions: bool = False,
) -> MultiTaskVectorEnv:
    """Several games as one batch: ``(N, C, image_size, image_size)`` uint8 pictures, 18 actions; C is ``frame_stack``,
    times 3 in colours.

    Args:
        games: CamelCase names.
        task_ids: identity of each game in the whole run.
        num_envs_per_task: one number for all games or one per game; likewise the other per-game
            arguments.
        training: learn from clipped rewards and end episodes on a lost life. Evaluation does
            neither.
        env_offsets: number of the first environment of each game, where several ranks share a game.
        max_episode_steps: time limit in env steps.
        clip_reward: overrides ``training`` for the reward.
        end_on_life_loss: overrides ``training`` for lives.
        num_threads: emulator threads of all games together, rounded up to the same number for every
            game.
        noop_max, sticky, image_size, frame_skip, grayscale, frame_stack: as in :func:`make_atari_vector_env`.
        only_minimal_actions: only actions that have an effect in a game are legal in it; each keeps
            its number, so that it means the same in every game.

    Raises:
        TypeError: if ``games`` are no names.
        ValueError: if a per-game argument is not as long as ``games``, and as
            :func:`make_atari_vector_env`.
    """
    checks.names("games", games)
    envs = _per_game("num_envs_per_task", num_envs_per_task, games)
    limits = _per_game("max_episode_steps", max_episode_steps, games)
    clips = _per_game("clip_reward", training if clip_reward is None else clip_reward, games)
    cuts = _per_game(
        "end_on_life_loss", training if end_on_life_loss is None else end_on_life_loss, games
    )
    ids = _per_game("task_ids", task_ids, games)
    offsets = _per_game("env_offsets", env_offsets, games)
    threads = math.ceil(num_threads / max(1, len(games)))
    return MultiTaskVectorEnv(
        [
            TaskEnv(
                env=make_atari_vector_env(
                    game,
                    envs[i],
                    max_episode_steps=limits[i],
                    noop_max=noop_max,
                    sticky=sticky,
                    num_threads=threads,
                    image_size=image_size,
                    frame_skip=frame_skip,
                    grayscale=grayscale,
                    frame_stack=frame_stack,
                ),
                task_id=ids[i],
                name=game,
                layout="chw" if grayscale else "frames_hwc",
                clip_reward=clips[i],
                end_on_life_loss=cuts[i],
                env_offset=offsets[i],
                legal_actions=minimal_actions(game) if only_minimal_actions else None,
                reseed_after=RESEED_AFTER,
            )
            for i, game in enumerate(games)
        ]
    )


def _per_game(field: str, value: Any, games: Sequence[str]) -> Sequence[Any]:
    if not isinstance(value, Sequence):
        return [value] * len(games)
    if len(value) != len(games):
        raise ValueError(
            f"{field}: {len(value)} values for {len(games)} games; give one, or one per game"
        )
    return value


class NativeScreenTwin:
    """Replays one environment of a multi-task env at the console's own resolution, for videos.

    The emulator is deterministic: with the same seed, settings and actions (also those that a reset
    row ignores) the twin plays the same episodes. Give it the settings of the
    environment it shadows.

    Args:
        game: CamelCase name.
        max_episode_steps, noop_max, sticky, frame_skip: as in :func:`make_atari_vector_env`.

    Attributes:
        frames_per_second: of a video with one screen per env step that runs as fast as the
            game did.
        raw_reward: of the last step.
        episode_over: whether the last step ended the episode; the next one starts another.
    """

    def __init__(
        self,
        game: str,
        *,
        max_episode_steps: int = MAX_EPISODE_STEPS,
        noop_max: int = 30,
        sticky: float = 0.0,
        frame_skip: int = 4,
    ) -> None:
        env = make_atari_vector_env(
            game,
            1,
            max_episode_steps=max_episode_steps,
            noop_max=noop_max,
            sticky=sticky,
            image_size=(SCREEN_HEIGHT, SCREEN_WIDTH),
            frame_skip=frame_skip,
        )
        self._port = ReplayablePort(env, RESEED_AFTER)
        self.frames_per_second = round(CONSOLE_FRAMES_PER_SECOND / frame_skip)
        self.raw_reward = 0.0
        self.episode_over = False

    def reset(self, seed: int) -> np.ndarray:
        """First screen ``(210, 160, 3)`` uint8 RGB.

        Args:
            seed: of the shadowed environment; number j of a task has
                ``task_seed(seed, task_id) + j``.
        """
        observation, _ = self._port.reset(seed)
        self.raw_reward, self.episode_over = 0.0, False
        return observation[0, 0]

    def step(self, action: int) -> np.ndarray:
        """Screen after ``action``: what the shadowed environment got, also on its reset rows.

        Raises:
            ValueError: if the action is not 0 to 17.
        """
        if not 0 <= action < NUM_ACTIONS:
            raise ValueError(f"action={action}; allowed are 0 to {NUM_ACTIONS - 1}")
        observation, reward, terminated, truncated, _ = self._port.step(
            np.array([action], np.int64)
        )
        self.raw_reward, self.episode_over = float(reward[0]), bool(terminated[0] | truncated[0])
        return observation[0, 0]

    def close(self) -> None:
        """Release the emulator."""
        self._port.env.close()
