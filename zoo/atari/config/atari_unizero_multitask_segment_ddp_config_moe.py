"""Train multi-task UniZero on Atari with mixture-of-experts blocks.

python zoo/atari/config/atari_unizero_multitask_segment_ddp_config_moe.py  # preset cpu, or atari8 with a GPU
python zoo/atari/config/atari_unizero_multitask_segment_ddp_config_moe.py atari8 --policy.search.num-simulations 50
python -m torch.distributed.run --nproc_per_node=2 zoo/atari/config/atari_unizero_multitask_segment_ddp_config_moe.py
python zoo/atari/config/atari_unizero_multitask_segment_ddp_config_moe.py cpu --help  # every field
"""

from lzero.entry.cli import main
from zoo.atari.config.presets import default_preset, presets

if __name__ == "__main__":
    main(presets(moe=True), default_preset())
