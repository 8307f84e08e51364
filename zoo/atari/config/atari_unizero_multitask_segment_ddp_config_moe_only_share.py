"""Train multi-task UniZero on Atari, mixtures without routed experts: presets of ``…_config_moe.py``, changed.

python zoo/atari/config/atari_unizero_multitask_segment_ddp_config_moe_only_share.py  # preset cpu, or atari8 with a GPU
python zoo/atari/config/atari_unizero_multitask_segment_ddp_config_moe_only_share.py atari8 --seed 1
python -m torch.distributed.run --nproc_per_node=8 zoo/atari/config/atari_unizero_multitask_segment_ddp_config_moe_only_share.py atari8
python zoo/atari/config/atari_unizero_multitask_segment_ddp_config_moe_only_share.py cpu --help  # every field

Where the study of conflict is asked for, its ablation is preset ``conflict_study_shared_only`` of ``…_config_moe.py``.
"""

from lzero.entry.cli import main
from zoo.atari.config.presets import default_preset, lightzero_presets

if __name__ == "__main__":
    main(lightzero_presets("only_share"), default_preset())
