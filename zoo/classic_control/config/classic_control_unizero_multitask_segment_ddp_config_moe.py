"""Train multi-task UniZero on classic control, an example of a domain with vector observations.

python zoo/classic_control/config/classic_control_unizero_multitask_segment_ddp_config_moe.py           # CartPole
python zoo/classic_control/config/classic_control_unizero_multitask_segment_ddp_config_moe.py three
"""

from lzero.entry.cli import main
from zoo.classic_control.config.presets import presets

PRESETS = presets(moe=True)

if __name__ == "__main__":
    main(PRESETS, "cartpole")
