"""UniZero's experiment: the sections of its schema, and how they fit together.

Impossible combinations are refused before anything starts. ``config.json`` in a run, with its
seed, reproduces it.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from lzero.config_sections import (
    READ_ENV,
    EncoderConfig,
    EnvConfig,
    Experiment,
    GameOverride,
    MoEConfig,
    OptimiserConfig,
    ProfileConfig,
    ReplayConfig,
    Section,
    TrainConfig,
    nearest,
    nearest_divisor,
)

__all__ = [
    "READ_ENV",
    "EncoderConfig",
    "EnvConfig",
    "Experiment",
    "ExperimentConfig",
    "GameOverride",
    "LossConfig",
    "MoEConfig",
    "ModelConfig",
    "OptimiserConfig",
    "PolicyConfig",
    "ProfileConfig",
    "ReplayConfig",
    "SearchConfig",
    "Section",
    "TrainConfig",
    "nearest",
]


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
    """C: env steps that a token attends to; the attention window is 2C tokens."""
    mlp_ratio: PositiveFloat = 4.0
    """Hidden width of the dense MLP over D; ``swiglu`` has 2/3 of it, and so as many parameters."""
    mlp_kind: Literal["gelu", "swiglu"] = "gelu"
    """Dense MLP: GELU between two linear maps, or the SwiGLU that experts are, which differs from a
    mixture of experts in that alone."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout rate of attention and feed-forward in training."""
    latent_norm: Literal["layer_norm", "sim_norm"] = "layer_norm"
    """Final normalisation of latents; ``sim_norm`` (groups of 8) goes with the group-KL latent
    loss."""
    residual_latent: bool = False
    """The latent head predicts the change of the latent, at first none, instead of the next latent."""
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

    @property
    def history_steps(self) -> int:
        """Env steps, the current one included, that reach a prediction: a block looks 2C − 1 tokens
        back, on tokens from which the block before has looked back."""
        tokens = self.num_layers * (2 * self.context_steps - 1) + 1
        return tokens // 2 + 1  # history begins with a latent, maybe a token more than is needed

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.embed_dim % 2:
            raise ValueError(
                f"model.embed_dim={self.embed_dim} is odd, but head widths must be even; "
                f"try {self.embed_dim + 1}"
            )
        if self.embed_dim % self.num_heads or (self.embed_dim // self.num_heads) % 2:
            raise ValueError(
                f"model.num_heads={self.num_heads} does not divide "
                f"model.embed_dim={self.embed_dim} into even head widths; "
                f"try {nearest_divisor(self.embed_dim // 2, self.num_heads)}"
            )
        if self.latent_norm == "sim_norm" and self.embed_dim % 8:
            raise ValueError(
                f"model.embed_dim={self.embed_dim} is no multiple of 8, "
                "as latent_norm='sim_norm' needs"
            )
        return self


class SearchConfig(Section):
    """Tree search in latent space."""

    kind: Literal["puct", "gumbel"] = "puct"
    """``puct`` learns from visits; ``gumbel`` from Q completed by the value, made for few
    simulations."""
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
    """gumbel: actions that are tried at the root, at most; sequential halving finds the best of
    them."""
    c_visit: float = Field(50.0, ge=0.0)
    """gumbel: visits added to those of the most visited action in the scale of Q against logits."""
    c_scale: PositiveFloat = 0.1
    """gumbel: Q, rescaled to [0, 1], counts (c_visit + most visits) * c_scale against logits."""


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
    open_loop: float = Field(0.0, ge=0.0)
    """All of these once more, at steps whose latent is predicted as in a search; 0 spares the second run."""
    online_labels: bool = False
    """The next latent's label is what the online encoder makes of the next frame, without gradient,
    instead of the target encoder."""
    spread: float = Field(5.0, ge=0.0)
    """Shortfall of the latents' spread: keeps frames that look alike from becoming one latent."""
    spread_target: float = Field(0.5, gt=0.0, le=1.0)
    """Standard deviation of each latent dimension over a game's frames that is enough, as a share
    of the largest."""
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
    burn_in_steps: int = Field(0, ge=0)
    """Env steps in front of a window that are its past and have no loss: with C − 1 or more, its first
    steps see as much as a search does."""
    shift_pixels: int = Field(0, ge=0)
    """Pictures of a training window are moved by up to this many pixels along both axes."""
    scale_returns: bool = False
    """Divide a game's rewards by the running standard deviation of its returns, where that is above 1:
    for rewards that are not clipped."""
    td_steps: PositiveInt = 5
    """Rewards summed before the value target bootstraps."""
    discount: float = Field(0.997, gt=0.0, le=1.0)
    """Discount per env step."""
    replay_ratio: PositiveFloat = 0.25
    """Updates per env step of one game, that with the fewest environments: the ratio of learning to
    acting, the same on every machine."""
    target_momentum: float = Field(0.05, gt=0.0, le=1.0)
    """Share of the online network that enters the target network after each update."""
    reanalyse_fraction: float = Field(0.0, ge=0.0, le=1.0)
    """Share of sampled windows whose policy targets are searched anew with the target network."""
    gradient_conflict_interval: int = Field(200, ge=0)
    """Updates between two measurements of the gradient conflict between games; 0 measures never."""
    conflict_color_limit: Literal["auto"] | Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """``|cosine|`` from which on heatmaps of the conflict have their strongest colours; ``auto`` takes the
    largest between two games, in each picture anew: for small cosines."""
    gradient_aggregator: Literal["mean", "pcgrad", "cagrad", "upgrad"] = "mean"
    """How the games' gradients become one; all but ``mean`` need the package torchjd and an
    update game by game."""
    cagrad_c: float = Field(0.4, ge=0.0)
    """cagrad: how far the update may be from the mean gradient, as a share of its length."""
    profile: ProfileConfig = ProfileConfig()
    """Profilers."""

    @property
    def window(self) -> int:
        """Frames of a sampled window, burn-in aside: H + td + 1."""
        return self.unroll_steps + self.td_steps + 1


class ExperimentConfig(Experiment):
    """A UniZero experiment, whole."""

    fixed_fields: ClassVar[tuple[str, ...]] = (
        *Experiment.fixed_fields,
        "model",
        "policy.unroll_steps",
        "policy.td_steps",
        "policy.replay",
    )

    model: ModelConfig = ModelConfig()
    """World model."""
    policy: PolicyConfig = PolicyConfig()
    """Learning and search."""

    @property
    def history_steps(self) -> int:
        """J: env steps, the current one included, that a search sees. All that reach a prediction, but
        no more than a training window has: search and training compute one function."""
        trained = self.policy.burn_in_steps + self.policy.unroll_steps + 1
        return min(self.model.history_steps, trained)

    def batch_size_of(self, game: str) -> int:
        """Windows of ``game`` in one update."""
        return self.env.override(game).batch_size or self.policy.batch_size

    def ring_length(self) -> int:
        """Rows of each environment's replay ring."""
        return self.policy.replay.capacity // self._most_envs()

    def _most_envs(self) -> int:
        return max(self.env.envs_of(game) for game in self.env.games)

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        context, unroll = self.model.context_steps, self.policy.unroll_steps
        if context > unroll + 1:
            raise ValueError(
                f"model.context_steps={context} is longer than a training window of "
                f"policy.unroll_steps={unroll} transitions; use at most {unroll + 1} context steps"
            )
        capacity, window, rows = self.policy.replay.capacity, self.policy.window, self.ring_length()
        if rows < 2 * window:
            raise ValueError(
                f"policy.replay.capacity={capacity} leaves {rows} rows per environment, less than "
                f"two windows of {window}; use at least {2 * window * self._most_envs()}"
            )
        for game in self.env.games:
            batch_size = self.batch_size_of(game)
            if batch_size > capacity:
                raise ValueError(
                    f"policy.batch_size={batch_size} of {game} is larger than "
                    f"policy.replay.capacity={capacity}; use at most that many windows"
                )
        return self
