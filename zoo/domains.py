"""The table of domains that the command ``lzero`` trains: one row each, whose presets are imported when they are asked for.

To add one, write its presets (``zoo/{domain}/config/presets.py``) and a row here.
"""

from lzero.console.domains import Domains, Row

ROWS: Domains = (
    Row(
        "atari",
        "Atari 2600 games through ALE; UniZero with dense blocks",
        "zoo.atari.config.presets:presets",
        {"moe": False},
        "zoo.atari.config.presets:default_preset",
        "zoo.atari.domain:ATARI",
    ),
    Row(
        "atari-moe",
        "Atari 2600 games through ALE; UniZero with mixture-of-experts blocks",
        "zoo.atari.config.presets:presets",
        {"moe": True},
        "zoo.atari.config.presets:default_preset",
        "zoo.atari.domain:ATARI",
    ),
    Row(
        "minatar",
        "five small games on a 10x10 grid (pip install lzero[minatar]); UniZero with dense blocks",
        "zoo.minatar.config.presets:presets",
        {"moe": False},
        "breakout",
        "zoo.minatar.domain:MINATAR",
    ),
    Row(
        "minatar-moe",
        "the same games; UniZero with mixture-of-experts blocks",
        "zoo.minatar.config.presets:presets",
        {"moe": True},
        "breakout",
        "zoo.minatar.domain:MINATAR",
    ),
    Row(
        "minatar-ppo",
        "the same games; PPO, without and with mixtures of experts",
        "zoo.minatar.config.ppo_presets:ppo_presets",
        {},
        "quick",
        "zoo.minatar.domain:MINATAR",
    ),
    Row(
        "catch",
        "a ball to catch and its mirror image, in seconds to minutes; UniZero with dense blocks",
        "zoo.catch.config.presets:presets",
        {"moe": False},
        "both",
        "zoo.catch.domain:CATCH",
    ),
    Row(
        "catch-moe",
        "the same games; UniZero with mixture-of-experts blocks",
        "zoo.catch.config.presets:presets",
        {"moe": True},
        "both",
        "zoo.catch.domain:CATCH",
    ),
    Row(
        "catch-ppo",
        "the same games; PPO",
        "zoo.catch.config.ppo_presets:ppo_presets",
        {},
        "both",
        "zoo.catch.domain:CATCH",
    ),
    Row(
        "classic-control",
        "CartPole, Acrobot and MountainCar; UniZero with dense blocks",
        "zoo.classic_control.config.presets:presets",
        {"moe": False},
        "cartpole",
        "zoo.classic_control.domain:CLASSIC_CONTROL",
    ),
    Row(
        "classic-control-moe",
        "the same problems; UniZero with mixture-of-experts blocks",
        "zoo.classic_control.config.presets:presets",
        {"moe": True},
        "cartpole",
        "zoo.classic_control.domain:CLASSIC_CONTROL",
    ),
    Row(
        "gym",
        "any gymnasium id with box observations and discrete actions; UniZero with dense blocks",
        "zoo.gym.config.presets:presets",
        {"moe": False},
        "cpu",
        "zoo.gym.domain:GYM",
    ),
    Row(
        "gym-moe",
        "the same; UniZero with mixture-of-experts blocks",
        "zoo.gym.config.presets:presets",
        {"moe": True},
        "cpu",
        "zoo.gym.domain:GYM",
    ),
)
