"""Stop early: a callback that finishes a run as soon as every game is played well enough.

python examples/stop_early.py            # until a mean score of 0.9, or 8,000 env steps; a minute or two
python examples/stop_early.py -1         # satisfied with anything: the first evaluation ends it

The run is finished as any other: a checkpoint, a last evaluation, result.json. What else a callback is told: docs/watching.md.
"""

import sys

from train_from_python import EXPERIMENT

from lzero.entry import Callback, EvaluationEvent, Stop, train_unizero_multitask_segment_ddp

MOST_STEPS = 8_000  # env steps per game, several times what it takes


class StopAtScore(Callback):
    """Finishes the run when the worst game's mean score of an evaluation is ``enough``."""

    def __init__(self, enough: float) -> None:
        self.enough = enough

    def on_evaluation(self, event: EvaluationEvent) -> Stop | None:
        game = min(event.scores, key=event.scores.__getitem__)
        if event.is_main:  # every rank calls this
            print(f"{event.env_step} env steps: {game} is worst with {event.scores[game]:.2f}")
        if event.scores[game] < self.enough:
            return None
        return Stop(f"every game scores at least {self.enough:g}")


if __name__ == "__main__":
    enough = float(sys.argv[1]) if len(sys.argv) > 1 else 0.9
    train = {"eval_interval": 320, "eval_episodes": 32, "log_interval": 20, "video": False}
    experiment = EXPERIMENT | {"exp_name": "example_stop_early", "train": train}
    result = train_unizero_multitask_segment_ddp(
        experiment, max_env_step=MOST_STEPS, callbacks=[StopAtScore(enough)]
    )
    print(f"{result.env_steps} env steps; stopped early: {result.stopped_early or 'no'}")
