"""Train multi-task UniZero on Catch and its mirror image through DI-engine's serial pipeline: the preset ``both`` of the script
without ``_ding``, with other settings where this file says so.

DI-engine is installed by make ding, see docs/ding.md. A few minutes on 2 cores; files go to runs/catch_ding/.

.venv-ding/bin/python zoo/catch/config/catch_unizero_multitask_ding_config.py
"""

from lzero.ding import ding_config, serial_pipeline_unizero_multitask
from zoo.catch.config.presets import presets

experiment = presets(moe=True)["both"][1].model_copy(update={"exp_name": "catch_ding"})
main_config, create_config = ding_config(experiment, manager="base")

# What stands under lzero is ours, by the names of the schema; everything else is DI-engine's.
main_config.policy.lzero.train.log_interval = 50
main_config.policy.learn.learner.hook.save_ckpt_after_iter = 500
main_config.env.stop_value = 0.99  # of every game: the optimum is 1

if __name__ == "__main__":
    serial_pipeline_unizero_multitask((main_config, create_config), seed=0)
