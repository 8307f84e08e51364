"""Train multi-task UniZero on Atari, 8 blocks with mixtures of experts: presets of ``…_config_moe.py``, changed.

python zoo/atari/config/atari_unizero_multitask_segment_ddp_config_moe_8layer.py  # preset cpu, or atari8 with a GPU
python zoo/atari/config/atari_unizero_multitask_segment_ddp_config_moe_8layer.py atari8 --seed 1
python -m torch.distributed.run --nproc_per_node=8 zoo/atari/config/atari_unizero_multitask_segment_ddp_config_moe_8layer.py atari8
python zoo/atari/config/atari_unizero_multitask_segment_ddp_config_moe_8layer.py cpu --help  # every field
"""

from lzero.entry.cli import main
from zoo.atari.config.presets import default_preset, lightzero_presets

if __name__ == "__main__":
    main(lightzero_presets("8layer"), default_preset())
