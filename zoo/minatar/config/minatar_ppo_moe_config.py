"""Train PPO on MinAtar: actor-critics without and with mixtures of experts, several games at once or one after another.

The games need the optional package: pip install -e .[minatar]

python zoo/minatar/config/minatar_ppo_moe_config.py                                      # preset quick
python zoo/minatar/config/minatar_ppo_moe_config.py mtrl --model.architecture big --model.mixture.routing softmoe
python zoo/minatar/config/minatar_ppo_moe_config.py crl --schedule.order Asterix Breakout SpaceInvaders
python zoo/minatar/config/minatar_ppo_moe_config.py mtrl --help                          # every field
"""

from lzero.entry.cli import main
from zoo.minatar.config.ppo_presets import ppo_presets

if __name__ == "__main__":
    main(ppo_presets(), "quick")
