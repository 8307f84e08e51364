"""Train multi-task UniZero with mixture-of-experts blocks on Catch and its mirror image.

It takes about a minute on 2 cores.

python zoo/catch/config/catch_unizero_multitask_segment_ddp_config_moe.py                   # told apart by task id
python zoo/catch/config/catch_unizero_multitask_segment_ddp_config_moe.py blind             # cannot be told apart
python zoo/catch/config/catch_unizero_multitask_segment_ddp_config_moe.py context           # told apart by what happened before
python zoo/catch/config/catch_unizero_multitask_segment_ddp_config_moe.py control_conflict  # must conflict; also control_same, control_routing
"""

from lzero.entry.cli import main
from zoo.catch.config.presets import presets

if __name__ == "__main__":
    main(presets(moe=True), "both")
