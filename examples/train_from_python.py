"""Train from Python: an experiment as a dict, one call, scores by game.

python examples/train_from_python.py             # Catch and its mirror image; under a minute
python examples/train_from_python.py seconds     # stops before anything is learned

The run is in runs/example_catch/; the same call again continues it. What a field means:
python zoo/catch/config/catch_unizero_multitask_segment_ddp_config_moe.py --help
"""

import sys

from lzero.entry import TrainResult, train_unizero_multitask_segment_ddp
from zoo.catch.domain import CATCH

EXPERIMENT = {
    "exp_name": "example_catch",
    "env": {"domain": "zoo.catch.domain:CATCH", "games": CATCH.games[:2], "num_envs": 16},
    "model": {"embed_dim": 64, "num_layers": 1, "encoder": {"kind": "mlp", "hidden": (128,)}},
    "policy": {
        "batch_size": 8,
        "unroll_steps": 5,
        "replay": {"capacity": 20_000},
        "optimiser": {"learning_rate": 2e-3},
        "search": {"kind": "gumbel", "num_simulations": 16, "num_eval_simulations": 16},
    },
    "train": {"eval_episodes": 32, "log_interval": 20},
}


def main(env_steps: int) -> TrainResult:
    """Train for ``env_steps`` per game and print how well each game is played."""
    result = train_unizero_multitask_segment_ddp(EXPERIMENT, seed=0, max_env_step=env_steps)
    for game, score in result.scores.items():
        known = ", ".join(f"{who} {value:g}" for who, value in CATCH.reference_scores(game).items())
        print(f"{game}: {score:.2f} ({known})")
    return result


if __name__ == "__main__":
    main(320 if "seconds" in sys.argv else 4_000)
