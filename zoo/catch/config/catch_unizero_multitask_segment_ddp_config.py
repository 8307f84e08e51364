"""Train multi-task UniZero with dense blocks on Catch and its mirror image; a minute on 2 cores.

python zoo/catch/config/catch_unizero_multitask_segment_ddp_config.py                   # told apart by task id
python zoo/catch/config/catch_unizero_multitask_segment_ddp_config.py blind             # cannot be told apart
python zoo/catch/config/catch_unizero_multitask_segment_ddp_config.py context           # told apart by what happened before
python zoo/catch/config/catch_unizero_multitask_segment_ddp_config.py control_conflict  # must conflict; also control_same
"""

from lzero.entry.cli import main
from zoo.catch.config.presets import presets

if __name__ == "__main__":
    main(presets(moe=False), "both")
