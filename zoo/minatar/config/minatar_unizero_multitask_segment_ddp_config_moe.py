"""Train multi-task UniZero on MinAtar with mixture-of-experts blocks.

The games need the optional package: pip install -e .[minatar]

python zoo/minatar/config/minatar_unizero_multitask_segment_ddp_config_moe.py  # preset breakout
python zoo/minatar/config/minatar_unizero_multitask_segment_ddp_config_moe.py three --policy.search.num-simulations 50
python -m torch.distributed.run --nproc_per_node=2 zoo/minatar/config/minatar_unizero_multitask_segment_ddp_config_moe.py five
python zoo/minatar/config/minatar_unizero_multitask_segment_ddp_config_moe.py breakout --help  # every field
"""

from lzero.entry.cli import main
from zoo.minatar.config.presets import presets

if __name__ == "__main__":
    main(presets(moe=True), "breakout")
