"""Presets of the Atari experiments, with dense blocks or mixture-of-experts blocks."""

from lzero.config import ExperimentConfig
from lzero.envs.domain import with_domain_settings
from zoo.atari.envs import ATARI8, ATARI26
from zoo.conflict_study import NAME as CONFLICT_STUDY
from zoo.conflict_study import conflict_study

CPU2 = ("Krull", "CrazyClimber")  # their reward per step multiplies within 5,000 env steps
ATARI3 = ("Krull", "KungFuMaster", "UpNDown")

Presets = dict[str, tuple[str, ExperimentConfig]]

LIGHTZERO_PRESETS: dict[str, dict[str, int]] = {
    "noshare": {"num_shared_experts": 0},
    "only_share": {"num_experts": 0},
    "8layer": {},
}
"""LightZero's scripts by the end of their names, and what they change of the mixture."""


def presets(*, moe: bool) -> Presets:
    """Name to (a line of help, config)."""
    suffix = "moe" if moe else "dense"
    atari8 = _published(f"atari8_{suffix}", ATARI8, moe, batch_size=128)
    # 512 windows over 26 games: 18 games get 20 windows, 8 get 19
    fewer = {game: {"batch_size": 19} for game in ATARI26[-8:]}
    atari26 = _published(f"atari26_{suffix}", ATARI26, moe, batch_size=20, overrides=fewer)
    return {
        "cpu": (
            "2 games, rewards that rise within minutes on 2 cores",
            _cpu(f"atari_cpu_{suffix}", moe),
        ),
        "afternoon": (
            "any games (--env.games …), 100,000 env steps each; 1 to 2 hours a game on one core",
            _small(f"atari_afternoon_{suffix}", ("KungFuMaster",), moe),
        ),
        "atari3": (
            "3 games in one agent, 100,000 env steps each",
            _small(f"atari3_{suffix}", ATARI3, moe),
        ),
        "atari8": ("8 games, the published 768-wide model with a ViT-Base; needs a GPU", atari8),
        "atari8_gumbel": ("atari8 with Gumbel search", _with_gumbel(atari8)),
        "atari26": ("26 games, the published model, 512 windows per update; needs a GPU", atari26),
        "atari26_gumbel": ("atari26 with Gumbel search", _with_gumbel(atari26)),
        **conflict_study(
            _published(f"atari8_conflict_{suffix}", ATARI8, moe, batch_size=128),
            moe=moe,
            interval=200,
        ),
        f"{CONFLICT_STUDY}_small": (
            "conflict study on 8 games at the size of afternoon, 10,000 env steps each; one core, an hour or two",
            _small_study(f"atari8_small_conflict_{suffix}", moe),
        ),
    }


def lightzero_presets(name: str) -> Presets:
    """Presets of LightZero's scripts for ablations: ours with mixtures of experts, in each the same change.

    ``noshare`` has no shared expert and ``only_share`` none that are routed; the expert that remains is
    twice as wide, so that a token passes as many parameters as before (in LightZero it does not).
    ``8layer`` has 8 blocks, and with 8 games 512 windows in an update, as in LightZero.

    Raises:
        ValueError: for another name.
    """
    if name not in LIGHTZERO_PRESETS:
        raise ValueError(f"name={name!r}: allowed are {', '.join(LIGHTZERO_PRESETS)}")
    found = {}
    for preset, (text, config) in presets(moe=True).items():
        if preset.startswith(CONFLICT_STUDY):
            continue  # it has its own ablations
        data = config.model_dump()
        data["exp_name"] += f"_{name}"
        if name == "8layer":
            data["model"]["num_layers"] = 8
            if preset.startswith("atari8"):
                data["policy"]["batch_size"] = 64
        else:
            data["model"]["moe"] |= LIGHTZERO_PRESETS[name]
            data["model"]["moe"]["hidden_ratio"] *= 2
        found[preset] = (f"{text}; {name}", with_domain_settings(data))
    return found


def default_preset() -> str:
    """``cpu`` where there is no GPU."""
    import torch  # takes longer than all else here, and help does not ask

    return "atari8" if torch.cuda.is_available() else "cpu"


def _small(exp_name: str, games: tuple[str, ...], moe: bool) -> ExperimentConfig:
    """Small networks that learn a game in 100,000 env steps on one core (benchmarks/RESULTS.md)."""
    return with_domain_settings(
        {
            "exp_name": exp_name,
            # With all 18 actions a search of 16 simulations mostly follows its prior; the games
            # here need 6 to 18 of them.
            "env": {"games": games, "num_envs": 16, "num_eval_envs": 8, "minimal_actions": True},
            "model": {
                "embed_dim": 128,
                "num_heads": 4,
                "num_layers": 2,
                # 0.4 of the work of a residual network of 16 and 32 channels
                "encoder": {"kind": "nature", "widths": (16, 32, 32)},
                # A bin is 0.2 wide, half a clipped reward after its transformation; with one of 1
                # rewards are hardly told from none. The limit is a return of 422: clipped
                # rewards cannot have more than 333.
                "support_limit": 20.0,
                "support_bins": 201,
                "moe": {"enabled": moe},
            },
            "policy": {
                # 20 windows of 10 steps in every second env step: 100 steps are trained for one
                # that is played
                "batch_size": 20,
                "unroll_steps": 10,
                "replay_ratio": 0.5,
                # pictures are moved, or so much training knows them by heart
                "shift_pixels": 4,
                # at 10 the latents' loss leaves rewards and values little of the encoder
                "loss": {"latent": 2.0},
                "optimiser": {"learning_rate": 1e-3},
                "replay": {"capacity": 100_000},
                "search": {"kind": "gumbel", "num_simulations": 16, "num_eval_simulations": 16},
            },
            "train": {
                "max_env_steps": 100_000,
                "random_steps": 2_000,
                "eval_interval": 50_000,
                "eval_episodes": 16,
                "checkpoint_interval": 5_000,
            },
        }
    )


def _small_study(exp_name: str, moe: bool) -> ExperimentConfig:
    """The conflict study's own domain at the size that two cores have time for."""
    data = _small(exp_name, ATARI8, moe).model_dump()
    data["train"] |= {
        "max_env_steps": 10_000,
        "random_steps": 1_000,
        "eval_interval": 10_000,
        "checkpoint_interval": 1_000,
    }
    # 5,000 updates: a measurement every 50 gives twenty in each fifth of the run
    study = conflict_study(with_domain_settings(data), moe=moe, interval=50)
    return study[CONFLICT_STUDY][1]


def _cpu(exp_name: str, moe: bool) -> ExperimentConfig:
    """The first command: small networks, for as long as a newcomer waits.

    In so few env steps what :func:`_small` learns with let CrazyClimber's reward fall again after it
    had risen (one seed, benchmarks/RESULTS.md), and took longer.
    """
    data = _small(exp_name, CPU2, moe).model_dump()
    data["model"] |= {"support_limit": 50.0, "support_bins": 101}
    data["model"]["encoder"] |= {"kind": "resnet", "widths": (16, 32)}
    data["policy"] |= {"replay_ratio": 0.25, "shift_pixels": 0}
    data["policy"]["loss"]["latent"] = 10.0
    data["policy"]["optimiser"]["learning_rate"] = 3e-4
    # 4000 env steps bound the last evaluation in time; games of beginners are shorter.
    data["env"] |= {"num_envs": 8, "num_eval_envs": 4, "max_episode_steps": 4_000}
    data["policy"] |= {"batch_size": 16}
    data["policy"]["replay"]["capacity"] = 20_000
    data["train"] |= {
        "max_env_steps": 5_000,
        "random_steps": 800,
        "eval_interval": 5_000,
        "eval_episodes": 4,
        "checkpoint_interval": 1_600,
        "log_interval": 10,
    }
    return with_domain_settings(data)


def _published(
    exp_name: str,
    games: tuple[str, ...],
    moe: bool,
    *,
    batch_size: int,
    overrides: dict | None = None,
) -> ExperimentConfig:
    """Sizes of the published multi-task runs (UniZero, arXiv 2406.10667; ScaleZero, arXiv
    2509.07945).

    The encoder is a ViT-Base: 768 wide, 12 layers, 12 heads, patches of 8 pixels, dropout 0.1. That
    is what LightZero's multi-task code builds for more than 8 games, and first built for 8 too; later
    versions take a ViT as wide with 6 layers there, whose heads of 64 and MLP of 2,048 ours has not.
    Its scripts have 24 heads in the blocks, later ones 8, as here.
    """
    return with_domain_settings(
        {
            "exp_name": exp_name,
            "env": {"games": games, "num_envs": 8, "overrides": overrides or {}},
            "model": {
                "embed_dim": 768,
                "num_heads": 8,
                "num_layers": 4,
                "encoder": {
                    "kind": "vit",
                    "patch_size": 8,
                    "vit_width": 768,
                    "vit_layers": 12,
                    "vit_heads": 12,
                    "dropout": 0.1,
                },
                "moe": {"enabled": moe},
            },
            "policy": {
                "batch_size": batch_size,
                "unroll_steps": 10,
                "td_steps": 5,
                # 80 updates per 20 steps of 8 environments of each game
                "replay_ratio": 0.5,
                "replay": {"capacity": 500_000},
                "search": {"num_simulations": 25, "num_eval_simulations": 50},
            },
            "train": {
                "max_env_steps": 400_000,
                "collect_steps": 20,
                "eval_interval": 20_000,
                "checkpoint_interval": 20_000,
            },
        }
    )


def _with_gumbel(config: ExperimentConfig) -> ExperimentConfig:
    """The same experiment with another search; simulations and all 18 actions stay, so that the two
    compare."""
    data = config.model_dump()
    data["exp_name"] += "_gumbel"
    data["policy"]["search"]["kind"] = "gumbel"
    return with_domain_settings(data)
