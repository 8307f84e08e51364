"""Factories of Atari environments."""

from zoo.atari.envs.atari import (
    ATARI8,
    ATARI26,
    NativeScreenTwin,
    all_games,
    make_atari_multitask_env,
    make_atari_vector_env,
    minimal_actions,
    rom_name,
)

__all__ = [
    "ATARI8",
    "ATARI26",
    "NativeScreenTwin",
    "all_games",
    "make_atari_multitask_env",
    "make_atari_vector_env",
    "minimal_actions",
    "rom_name",
]
