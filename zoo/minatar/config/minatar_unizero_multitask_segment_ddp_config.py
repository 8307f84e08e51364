"""Train multi-task UniZero on MinAtar with dense blocks (the twin of ``…_config_moe.py``).

The games need the optional package: pip install -e .[minatar]

python zoo/minatar/config/minatar_unizero_multitask_segment_ddp_config.py  # preset breakout
python zoo/minatar/config/minatar_unizero_multitask_segment_ddp_config.py three --policy.search.num-simulations 50
python -m torch.distributed.run --nproc_per_node=2 zoo/minatar/config/minatar_unizero_multitask_segment_ddp_config.py five
python zoo/minatar/config/minatar_unizero_multitask_segment_ddp_config.py breakout --help  # every field
"""

from lzero.entry.cli import main
from zoo.minatar.config.presets import presets

if __name__ == "__main__":
    main(presets(moe=False), "breakout")
