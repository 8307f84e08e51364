"""Train PPO on Catch and its mirror image.

python zoo/catch/config/catch_ppo_moe_config.py                                    # preset both: seconds
python zoo/catch/config/catch_ppo_moe_config.py both --model.architecture big
python zoo/catch/config/catch_ppo_moe_config.py both --help                        # every field
"""

from lzero.entry.cli import main
from zoo.catch.config.ppo_presets import ppo_presets

if __name__ == "__main__":
    main(ppo_presets(), "both")
