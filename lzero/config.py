"""The one typed schema of an experiment.

Every field carries its unit and meaning; the same text is the command line's ``--help``. Unknown keys are refused with
the nearest valid name, impossible combinations before anything starts. ``config.json`` in a run, with its seed, reproduces it.
"""

import difflib
import importlib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator


def nearest(name: str, choices: list[str]) -> str:
    """The valid choice that looks most like ``name``, as a sentence for an error message."""
    lowered = {choice.lower(): choice for choice in choices}
    match = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.4)
    return f"did you mean {lowered[match[0]]!r}?" if match else f"valid: {', '.join(sorted(choices))}"


class Section(BaseModel):
    """A group of fields that refuses unknown keys and accepts any mapping, EasyDict included."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(
                        f"{cls.__name__}: unknown key {key!r}; {nearest(str(key), list(cls.model_fields))}"
                    )
        return data


class GameOverride(Section):
    """What one game does differently; an unset field takes the value that all games share."""

    max_episode_steps: PositiveInt | None = None
    """Time limit of an episode in env steps."""
    clip_reward: bool | None = None
    """Learn from the sign of the reward instead of the reward."""
    num_envs: PositiveInt | None = None
    """Environments that collect in parallel."""
    batch_size: PositiveInt | None = None
    """Windows of this game in one update."""


class EnvConfig(Section):
    """Games and how they are played."""

    domain: str = "zoo.atari.domain:ATARI"
    """Import path ``module:attribute`` of the domain that makes the environments."""
    games: tuple[str, ...] = ("Pong", "MsPacman")
    """Games learned together; the position in this list is the task id."""
    num_envs: PositiveInt = 8
    """Environments per game that collect in parallel."""
    num_eval_envs: PositiveInt = 4
    """Environments per game that evaluate in parallel."""
    max_episode_steps: PositiveInt = 27000
    """Time limit of an episode in env steps (27000 steps = 108000 Atari frames)."""
    clip_reward: bool = True
    """Learn from the sign of the reward (collecting only; evaluation counts the true reward)."""
    end_on_life_loss: bool = True
    """A lost life ends the episode for learning (collecting only; the game goes on)."""
    frame_skip: PositiveInt = 4
    """Frames per env step."""
    noop_max: int = Field(30, ge=0)
    """Up to this many random no-op frames after a reset."""
    sticky_action_probability: float = Field(0.0, ge=0.0, le=1.0)
    """Probability that the environment repeats the previous action."""
    difficulty_ramping: bool = True
    """MinAtar: games get harder with progress."""
    minimal_actions: bool = False
    """Atari, MinAtar: only the actions that have an effect in the game; the others are masked, all keep their numbers."""
    overrides: dict[str, GameOverride] = {}
    """Per-game exceptions, keyed by game name."""

    def override(self, game: str) -> GameOverride:
        """The exceptions of ``game`` (all unset if it has none)."""
        return self.overrides.get(game, GameOverride())

    def envs_of(self, game: str) -> int:
        """Collecting environments of ``game``."""
        return self.override(game).num_envs or self.num_envs

    def step_limit_of(self, game: str) -> int:
        """Time limit of ``game`` in env steps."""
        return self.override(game).max_episode_steps or self.max_episode_steps

    def clips_reward_of(self, game: str) -> bool:
        """Whether collecting on ``game`` learns from the sign of the reward."""
        override = self.override(game).clip_reward
        return self.clip_reward if override is None else override


class EncoderConfig(Section):
    """Turns one observation into one latent."""

    kind: Literal["resnet", "conv", "vit", "mlp"] = "resnet"
    """``resnet`` and ``vit`` for pictures, ``conv`` for small grids, ``mlp`` for vectors and very small grids."""
    widths: tuple[PositiveInt, ...] = (32, 64, 64)
    """resnet: channels of each stage; every stage after the first halves the resolution. conv: channels of each layer."""
    stem_stride: Literal[1, 2, 4] = 4
    """resnet: stride of the first convolution (1 for 10x10 grids)."""
    blocks_per_stage: PositiveInt = 1
    """resnet: residual blocks in each stage."""
    patch_size: PositiveInt = 8
    """vit: side of a patch in pixels."""
    vit_width: PositiveInt = 384
    """vit: width of the transformer."""
    vit_layers: PositiveInt = 6
    """vit: number of blocks."""
    vit_heads: PositiveInt = 6
    """vit: attention heads; divides ``vit_width``."""
    hidden: tuple[PositiveInt, ...] = (256, 256)
    """mlp: widths of the hidden layers."""
    task_conditioned: bool = False
    """Add a learned vector per task to the features before the final projection."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """vit: dropout rate in training; the target encoder never drops."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "conv" and not self.widths:
            raise ValueError("encoder.widths=(): encoder.kind='conv' needs at least one layer, e.g. (16,)")
        if self.kind == "resnet" and (not self.widths or any(width % 8 for width in self.widths)):
            raise ValueError(
                f"encoder.widths={self.widths}: at least one stage is needed, and all widths must be multiples of 8 "
                "(groups of channels are normalised), e.g. (32, 64)"
            )
        if self.vit_width % self.vit_heads:
            raise ValueError(
                f"encoder.vit_heads={self.vit_heads} does not divide encoder.vit_width={self.vit_width}; "
                f"try {nearest_divisor(self.vit_width, self.vit_heads)}"
            )
        return self


class MoEConfig(Section):
    """Mixture-of-experts feed-forward: ``y = shared(x) + sum of gate_e(x) * expert_e(x)``."""

    enabled: bool = True
    """Mixture of experts in every block instead of a dense MLP."""
    num_experts: int = Field(8, ge=0)
    """Routed experts; 0 leaves the shared expert alone."""
    num_shared_experts: int = Field(1, ge=0)
    """Experts that every token passes through; 0 leaves the routed experts alone."""
    top_k: PositiveInt = 1
    """Routed experts per token."""
    hidden_ratio: PositiveFloat = 4 / 3
    """Hidden width of an expert over the model width. 4/3 gives one shared and one routed SwiGLU expert together the
    active parameters of a dense MLP of ratio 4."""
    routing: Literal["topk", "hardcoded", "soft"] = "topk"
    """``topk`` of a learned router; ``hardcoded`` by task id; ``soft`` weights all experts."""
    renormalise: bool = False
    """Gates of the chosen experts sum to one (top_k >= 2 only)."""
    balance: Literal["none", "aux_loss", "bias"] = "none"
    """Keep experts evenly used: auxiliary loss with router z-loss, or a bias on the selection alone."""
    aux_loss_weight: float = Field(1e-2, ge=0.0)
    """Weight of the auxiliary load loss."""
    z_loss_weight: float = Field(1e-3, ge=0.0)
    """Weight of the router z-loss."""
    bias_rate: float = Field(1e-3, ge=0.0)
    """Step of the selection bias per update."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.enabled:
            return self
        if self.num_experts + self.num_shared_experts == 0:
            raise ValueError("moe.num_experts and moe.num_shared_experts are both 0; at least one expert is needed")
        if self.num_experts and self.top_k > self.num_experts:
            raise ValueError(
                f"moe.top_k={self.top_k} is more than moe.num_experts={self.num_experts}; use at most {self.num_experts}"
            )
        if self.renormalise and self.top_k == 1:
            raise ValueError(
                "moe.renormalise=True with moe.top_k=1 makes every gate 1 and starves the router of gradient; "
                "use top_k >= 2 or renormalise=False"
            )
        if self.balance != "none" and (self.num_experts == 0 or self.routing == "hardcoded"):
            raise ValueError(
                f"moe.balance={self.balance!r} needs a router to steer, which moe.num_experts={self.num_experts} with "
                f"moe.routing={self.routing!r} does not have; use balance='none'"
            )
        return self


class ModelConfig(Section):
    """World model: encoder, causal transformer over latent and action tokens, heads."""

    encoder: EncoderConfig = EncoderConfig()
    """Encoder of observations."""
    moe: MoEConfig = MoEConfig()
    """Feed-forward of the blocks."""
    embed_dim: PositiveInt = 256
    """Model width D."""
    num_heads: PositiveInt = 8
    """Attention heads; divides ``embed_dim`` into even head widths."""
    num_layers: PositiveInt = 2
    """Transformer blocks."""
    context_steps: PositiveInt = 4
    """C: env steps that a token can look back on; the attention window is 2C tokens."""
    mlp_ratio: PositiveFloat = 4.0
    """Hidden width of the dense MLP over D."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout rate of attention and feed-forward in training."""
    latent_norm: Literal["layer_norm", "sim_norm"] = "layer_norm"
    """Final normalisation of latents; ``sim_norm`` (groups of 8) goes with the group-KL latent loss."""
    task_embedding: Literal["none", "add", "concat", "register"] = "none"
    """How the task enters the token sequence."""
    num_register_tokens: PositiveInt = 4
    """Register tokens per task (``task_embedding = register``)."""
    share_head: bool = False
    """One set of heads for all tasks instead of one per task."""
    support_bins: int = Field(101, ge=3)
    """Bins of the categorical value and reward."""
    support_limit: PositiveFloat = 50.0
    """The support reaches from minus to plus this value, in transformed units."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """Label smoothing of value and reward targets."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.embed_dim % 2:
            raise ValueError(
                f"model.embed_dim={self.embed_dim} is odd, but head widths must be even; try {self.embed_dim + 1}"
            )
        if self.embed_dim % self.num_heads or (self.embed_dim // self.num_heads) % 2:
            raise ValueError(
                f"model.num_heads={self.num_heads} does not divide model.embed_dim={self.embed_dim} into even head "
                f"widths; try {nearest_divisor(self.embed_dim // 2, self.num_heads)}"
            )
        if self.latent_norm == "sim_norm" and self.embed_dim % 8:
            raise ValueError(f"model.embed_dim={self.embed_dim} is no multiple of 8, as latent_norm='sim_norm' needs")
        return self


class SearchConfig(Section):
    """Tree search in latent space."""

    kind: Literal["puct", "gumbel"] = "puct"
    """``puct`` learns from visits; ``gumbel`` from Q completed by the value, made for few simulations."""
    num_simulations: PositiveInt = 25
    """Simulations per move when collecting."""
    num_eval_simulations: PositiveInt = 50
    """Simulations per move when evaluating."""
    dirichlet_alpha: PositiveFloat = 0.3
    """puct: concentration of the root noise when collecting."""
    dirichlet_weight: float = Field(0.25, ge=0.0, le=1.0)
    """puct: share of the root noise in the root prior when collecting."""
    pb_c_init: PositiveFloat = 1.25
    """puct: exploration constant."""
    pb_c_base: PositiveFloat = 19652.0
    """puct: visits at which exploration starts to grow."""
    temperature: PositiveFloat = 0.25
    """puct: actions are drawn from visits^(1/temperature) when collecting."""
    max_considered_actions: PositiveInt = 16
    """gumbel: actions that are tried at the root, at most; sequential halving finds the best of them."""
    c_visit: float = Field(50.0, ge=0.0)
    """gumbel: visits added to those of the most visited action in the scale of Q against logits."""
    c_scale: PositiveFloat = 0.1
    """gumbel: Q, rescaled to [0, 1], counts (c_visit + most visits) * c_scale against logits."""


class ReplayConfig(Section):
    """Stored experience."""

    capacity: PositiveInt = 500_000
    """Transitions kept per task over all its environments."""
    prioritised: bool = False
    """Sample windows by value error instead of uniformly."""
    alpha: float = Field(0.6, ge=0.0)
    """Exponent of the priority."""
    beta: float = Field(0.4, ge=0.0, le=1.0)
    """Exponent of the importance weight."""


class OptimiserConfig(Section):
    """AdamW."""

    learning_rate: PositiveFloat = 1e-4
    """Step size."""
    weight_decay: float = Field(1e-2, ge=0.0)
    """Decoupled weight decay, on matrices only."""
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    """Decay of the first moment."""
    beta2: float = Field(0.95, ge=0.0, lt=1.0)
    """Decay of the second moment."""
    max_grad_norm: PositiveFloat = 5.0
    """The gradient is clipped to this norm after it was summed over ranks."""


class LossConfig(Section):
    """Weights of the loss terms."""

    latent: float = Field(10.0, ge=0.0)
    """Next-latent prediction."""
    reward: float = Field(1.0, ge=0.0)
    """Reward."""
    termination: float = Field(1.0, ge=0.0)
    """Whether an action ends the episode."""
    value: float = Field(0.5, ge=0.0)
    """Value."""
    policy: float = Field(1.0, ge=0.0)
    """Policy."""
    spread: float = Field(5.0, ge=0.0)
    """Shortfall of the latents' spread: keeps frames that look alike from becoming one latent."""
    spread_target: float = Field(0.5, gt=0.0, le=1.0)
    """Standard deviation of each latent dimension over a game's frames that is enough, as a share of the largest."""
    entropy: float = Field(1e-4, ge=0.0)
    """Bonus on the policy's entropy; the start value if adaptive."""
    adaptive_entropy: bool = False
    """Adapt the entropy weight of each task towards a falling target entropy."""
    entropy_target_start: float = Field(0.98, ge=0.0, le=1.0)
    """First target entropy as a share of ln(actions)."""
    entropy_target_end: float = Field(0.1, ge=0.0, le=1.0)
    """Last target entropy as a share of ln(actions)."""
    entropy_target_updates: PositiveInt = 150_000
    """Updates over which the target entropy falls."""


class ProfileConfig(Section):
    """Where the time goes, in detail; slows a run down."""

    line_profiler: bool = False
    """Time every line of learn, collect and the conflict analysis; ``line_profile.txt`` in the run's folder."""
    torch_profiler: bool = False
    """Trace some updates with the PyTorch profiler; ``trace.json`` in the run's folder."""


class PolicyConfig(Section):
    """What is learned from, and how."""

    search: SearchConfig = SearchConfig()
    """Tree search."""
    replay: ReplayConfig = ReplayConfig()
    """Replay ring."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Optimiser."""
    loss: LossConfig = LossConfig()
    """Loss weights."""
    batch_size: PositiveInt = 32
    """Windows per game in one update."""
    unroll_steps: PositiveInt = 10
    """H: transitions of a training window."""
    td_steps: PositiveInt = 5
    """Rewards summed before the value target bootstraps."""
    discount: float = Field(0.997, gt=0.0, le=1.0)
    """Discount per env step."""
    replay_ratio: PositiveFloat = 0.25
    """Updates per env step of one game: the ratio of learning to acting, the same on every machine."""
    target_momentum: float = Field(0.05, gt=0.0, le=1.0)
    """Share of the online network that enters the target network after each update."""
    reanalyse_fraction: float = Field(0.0, ge=0.0, le=1.0)
    """Share of sampled windows whose policy targets are searched anew with the target network."""
    gradient_conflict_interval: int = Field(200, ge=0)
    """Updates between two measurements of the gradient conflict between games; 0 measures never."""
    gradient_aggregator: Literal["mean", "pcgrad", "cagrad", "upgrad"] = "mean"
    """How the games' gradients become one; all but ``mean`` need the package torchjd and an update game by game."""
    cagrad_c: float = Field(0.4, ge=0.0)
    """cagrad: how far the update may be from the mean gradient, as a share of its length."""
    profile: ProfileConfig = ProfileConfig()
    """Profilers."""

    @property
    def window(self) -> int:
        """Frames of a sampled window: H + td + 1."""
        return self.unroll_steps + self.td_steps + 1


class TrainConfig(Section):
    """Length and rhythm of a run."""

    max_env_steps: PositiveInt = 400_000
    """Env steps per game after which training ends."""
    collect_steps: PositiveInt = 20
    """Env steps of every environment between two rounds of updates."""
    random_steps: int = Field(0, ge=0)
    """Env steps per game played at random before search and learning begin."""
    eval_interval: PositiveInt = 10_000
    """Env steps per game between two evaluations."""
    eval_episodes: PositiveInt = 8
    """Episodes per game of one evaluation."""
    checkpoint_interval: PositiveInt = 10_000
    """Env steps per game between two checkpoints."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints kept on disk."""
    log_interval: PositiveInt = 50
    """Updates between two rows of metrics."""
    moe_log_interval: int = Field(100, ge=0)
    """Updates between two looks at the expert selection; 0 never looks."""
    video: bool = True
    """Record one episode per game at the end."""


class ExperimentConfig(Section):
    """An experiment, whole."""

    exp_name: str = Field("atari_unizero_multitask_moe", min_length=1)
    """Name of the run; its files go to ``{output_dir}/{exp_name}``."""
    output_dir: Path = Path("runs")
    """Folder of all runs."""
    env: EnvConfig = EnvConfig()
    """Games."""
    model: ModelConfig = ModelConfig()
    """World model."""
    policy: PolicyConfig = PolicyConfig()
    """Learning and search."""
    train: TrainConfig = TrainConfig()
    """Length and rhythm."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes CUDA where there is some."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto`` computes in bfloat16 where the processor has matrix units for it."""

    @property
    def run_dir(self) -> Path:
        """Folder of this run."""
        return self.output_dir / self.exp_name

    @property
    def num_tasks(self) -> int:
        """T, the number of games."""
        return len(self.env.games)

    def batch_size_of(self, game: str) -> int:
        """Windows of ``game`` in one update."""
        return self.env.override(game).batch_size or self.policy.batch_size

    def ring_length(self) -> int:
        """Rows of each environment's replay ring."""
        return self.policy.replay.capacity // max(self.env.envs_of(game) for game in self.env.games)

    @model_validator(mode="after")
    def _check_games(self) -> Self:
        games = self.env.games
        if not games:
            raise ValueError("env.games is empty; name at least one game, e.g. --env.games Pong MsPacman")
        doubled = sorted({game for game in games if games.count(game) > 1})
        if doubled:
            raise ValueError(f"env.games names {', '.join(doubled)} more than once; each game is one task")
        known = load_domain(self.env.domain).games
        for game in games:
            if game not in known:
                raise ValueError(f"env.games: unknown game {game!r} of {self.env.domain}; {nearest(game, list(known))}")
        for game in self.env.overrides:
            if game not in games:
                raise ValueError(f"env.overrides: {game!r} is not among env.games; {nearest(game, list(games))}")
        return self

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        context, unroll = self.model.context_steps, self.policy.unroll_steps
        if context > unroll + 1:
            raise ValueError(
                f"model.context_steps={context} is longer than a training window of policy.unroll_steps={unroll} "
                f"transitions; use at most {unroll + 1} context steps"
            )
        if self.ring_length() < 2 * self.policy.window:
            raise ValueError(
                f"policy.replay.capacity={self.policy.replay.capacity} leaves {self.ring_length()} rows per environment, "
                f"less than two windows of {self.policy.window}; use at least "
                f"{2 * self.policy.window * max(self.env.envs_of(game) for game in self.env.games)}"
            )
        for game in self.env.games:
            if self.batch_size_of(game) > self.policy.replay.capacity:
                raise ValueError(
                    f"policy.batch_size={self.batch_size_of(game)} of {game} is larger than "
                    f"policy.replay.capacity={self.policy.replay.capacity}; use at most that many windows"
                )
        return self


def nearest_divisor(whole: int, wanted: int) -> int:
    """The divisor of ``whole`` closest to ``wanted``."""
    divisors = [d for d in range(1, whole + 1) if whole % d == 0]
    return min(divisors, key=lambda d: abs(d - wanted))


def load_domain(path: str) -> Any:
    """The domain object (see :class:`lzero.envs.domain.Domain`) at ``module:attribute``.

    Raises:
        ValueError: if the path is malformed, nothing is there, or what is there has no ``games``.
    """
    module, _, attribute = path.partition(":")
    try:
        domain = getattr(importlib.import_module(module), attribute)
        domain.games  # noqa: B018 (anything else that is importable is refused here too)
        return domain
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"env.domain={path!r} cannot be imported ({error}); write it as 'package.module:ATTRIBUTE', "
            "e.g. 'zoo.atari.domain:ATARI', and run from a place where that package is importable"
        ) from error
