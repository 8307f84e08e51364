"""Train multi-task UniZero with dense blocks on environments of gymnasium's registry.

python zoo/gym/config/gym_unizero_multitask_segment_ddp_config.py                                    # preset cpu: CartPole-v1, minutes
python zoo/gym/config/gym_unizero_multitask_segment_ddp_config.py cpu --env.games LunarLander-v3     # pip install -e .[gym]
python zoo/gym/config/gym_unizero_multitask_segment_ddp_config.py cpu --env.games my_module:MyEnv-v0
python zoo/gym/config/gym_unizero_multitask_segment_ddp_config.py image --env.games ALE/Breakout-v5
"""

from lzero.entry.cli import main
from zoo.gym.config.presets import presets

if __name__ == "__main__":
    main(presets(moe=False), "cpu")
