"""Factories of MinAtar environments."""

from zoo.minatar.envs.minatar import (
    GAMES,
    NUM_ACTIONS,
    RESEED_AFTER,
    SIDE,
    GameShape,
    MinAtarScreen,
    MinAtarVectorEnv,
    game_shape,
)

__all__ = [
    "GAMES",
    "NUM_ACTIONS",
    "RESEED_AFTER",
    "SIDE",
    "GameShape",
    "MinAtarScreen",
    "MinAtarVectorEnv",
    "game_shape",
]
