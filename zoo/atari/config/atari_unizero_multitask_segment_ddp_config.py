"""Train multi-task UniZero on Atari with dense blocks (the twin of ``…_config_moe.py``).

python zoo/atari/config/atari_unizero_multitask_segment_ddp_config.py  # preset cpu, or atari8 with a GPU
python zoo/atari/config/atari_unizero_multitask_segment_ddp_config.py atari8 --policy.search.num-simulations 50
python -m torch.distributed.run --nproc_per_node=2 zoo/atari/config/atari_unizero_multitask_segment_ddp_config.py
python zoo/atari/config/atari_unizero_multitask_segment_ddp_config.py cpu --help  # every field
"""

from lzero.entry.cli import main
from zoo.atari.config.presets import default_preset, presets

if __name__ == "__main__":
    main(presets(moe=False), default_preset())
