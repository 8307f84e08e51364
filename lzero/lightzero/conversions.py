"""How values of LightZero's keys become values of our fields, where they are not taken as they are.

A converter takes the values of a task's config by key, LightZero's defaults included, and gives our
fields by dotted path.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lzero import checks
from lzero.config import nearest

Values = Mapping[str, Any]
Fields = dict[str, Any]

WORLD = "policy.model.world_model_cfg"
EXPERT_RATIO = 4.0
"""Hidden width over model width of LightZero's experts."""
SHIFT = 4
"""Pixels by which LightZero's augmentation pads pictures before it crops them."""
FEW_TASKS = 8
"""Up to so many tasks, LightZero's ViT has fewer blocks."""
# Ours has four times the width in its MLP and heads of width / heads; LightZero's smaller ViT has an
# MLP of 2,048 and heads of 64.
VIT = {"kind": "vit", "patch_size": 8, "vit_width": 768, "dropout": 0.1}
VIT_OF_FEW = VIT | {"vit_layers": 6, "vit_heads": 6}
VIT_BASE = VIT | {"vit_layers": 12, "vit_heads": 12}
TASK_EMBEDDINGS = {
    None: "none",
    "add_task_embed": "add",
    "concat_task_embed": "concat",
    "register_task_embed": "register",
}
LATENT_NORMS = {"LayerNorm": "layer_norm", "SimNorm": "sim_norm"}
LATENT_LOSSES = {"mse": "layer_norm", "group_kl": "sim_norm"}


class RefusedError(ValueError):
    """A value that has no counterpart here, with what to do."""


def one_of(key: str, value: Any, choices: Mapping[Any, Any]) -> Any:
    """The choice of ``value``.

    Raises:
        RefusedError: if there is none.
    """
    for choice, ours in choices.items():  # values may be lists, which no dict can be asked for
        if choice == value:
            return ours
    allowed = ", ".join(repr(choice) for choice in choices)
    raise RefusedError(f"{key}={value!r}: allowed are {allowed}")


def rhythm(values: Values) -> Fields:
    """Steps and updates of a round; LightZero counts updates, we count env steps of one game."""
    envs = values["env.collector_env_num"]
    steps = values["policy.num_segments"] * values["policy.game_segment_length"]
    updates = values["policy.update_per_collect"]
    ratio = values["policy.replay_ratio"] if updates is None else updates / steps
    if not ratio > 0:
        raise RefusedError(
            f"policy.update_per_collect={updates}, policy.replay_ratio={ratio}: give one above 0"
        )
    return {
        "policy.replay_ratio": ratio,
        "train.collect_steps": max(1, round(steps / envs)),
        "train.eval_interval": max(1, round(values["policy.eval_freq"] / ratio)),
    }


def picture(values: Values) -> Fields:
    """Size of pictures; vectors have none."""
    shape = values["env.observation_shape"]
    if not isinstance(shape, Sequence) or len(shape) != 3:
        return {}
    colors = 1 if values["env.gray_scale"] else 3
    channels, height, width = shape
    if height != width or channels != colors * values["env.frame_stack_num"]:
        raise RefusedError(
            f"env.observation_shape={tuple(shape)} with env.gray_scale={values['env.gray_scale']} and "
            f"env.frame_stack_num={values['env.frame_stack_num']}: allowed are square pictures of "
            f"{colors} channels a frame"
        )
    return {"env.image_size": height}


def encoder(values: Values, num_tasks: int) -> Fields:
    """Encoder of LightZero's kind and size."""
    if values[f"{WORLD}.obs_type"] == "vector":
        return {"model.encoder": {"kind": "mlp"}}
    one_of(f"{WORLD}.obs_type", values[f"{WORLD}.obs_type"], dict.fromkeys(("image", "vector")))
    kind = one_of(
        f"{WORLD}.encoder_type",
        values[f"{WORLD}.encoder_type"],
        {
            "vit": VIT_OF_FEW if num_tasks <= FEW_TASKS else VIT_BASE,
            "resnet": {"kind": "lightzero"},
        },
    )
    if kind["kind"] == "lightzero":
        for name, only in (("num_res_blocks", 2), ("num_channels", 64)):
            value = values[f"policy.model.{name}"]
            if value != only:
                raise RefusedError(
                    f"policy.model.{name}={value} with encoder_type='resnet': allowed is {only}; "
                    "or use encoder_type='vit'"
                )
    return {"model.encoder": kind}


def latent_norm(values: Values) -> Fields:
    """Normalisation of latents, which goes with the loss of predicted ones."""
    norm = values[f"{WORLD}.final_norm_option_in_encoder"]
    loss = values[f"{WORLD}.predict_latent_loss_type"]
    by_norm = one_of(f"{WORLD}.final_norm_option_in_encoder", norm, {**LATENT_NORMS, None: None})
    by_loss = one_of(f"{WORLD}.predict_latent_loss_type", loss, {**LATENT_LOSSES, None: None})
    if None not in (by_norm, by_loss) and by_norm != by_loss:
        raise RefusedError(
            f"{WORLD}.predict_latent_loss_type={loss!r} with final_norm_option_in_encoder={norm!r}: "
            "'mse' goes with 'LayerNorm', 'group_kl' with 'SimNorm'"
        )
    return {"model.latent_norm": by_norm or by_loss or "sim_norm"}


def support(values: Values) -> Fields:
    """Bins of values and rewards."""
    limit, bins = values["policy.model.support_scale"], values[f"{WORLD}.support_size"]
    ranges = [tuple(values[name]) for name in RANGES if values[name] is not None]
    if ranges:
        low, high, step = ranges[0] if len(ranges[0]) == 3 else (0, 0, 0)
        if (
            len(ranges) < 2
            or len(set(ranges)) > 1
            or not (step > 0 and low < 0 and high == step - low)
        ):
            raise RefusedError(
                f"{RANGES[0]}={values[RANGES[0]]}, {RANGES[1]}={values[RANGES[1]]}: allowed is one "
                "range for both, (-limit, limit + step, step)"
            )
        limit, bins = -low, round((high - low) / step)
    return {"model.support_limit": limit, "model.support_bins": bins}


def mixture(values: Values) -> Fields:
    """Experts of LightZero's size; its gates are a softmax over the chosen logits."""
    if not values[f"{WORLD}.multiplication_moe_in_transformer"]:
        return {"model.moe.enabled": False}
    top_k = values[f"{WORLD}.num_experts_per_tok"]
    return {
        "model.moe.enabled": True,
        "model.moe.num_experts": values[f"{WORLD}.num_experts_of_moe_in_transformer"],
        "model.moe.num_shared_experts": values[f"{WORLD}.n_shared_experts"],
        "model.moe.top_k": top_k,
        "model.moe.hidden_ratio": EXPERT_RATIO,
        "model.moe.renormalise": top_k > 1,
    }


def simulations(values: Values) -> Fields:
    """Simulations of a move, acting and in evaluations."""
    both = values["policy.num_simulations"]
    acting, evaluating = (values[f"policy.{name}_num_simulations"] for name in ("collect", "eval"))
    return {
        "policy.search.num_simulations": both if acting is None else acting,
        "policy.search.num_eval_simulations": both if evaluating is None else evaluating,
    }


def context(values: Values) -> Fields:
    """Steps of context; LightZero counts tokens, two a step."""
    tokens = values[f"{WORLD}.context_length"]
    if tokens % 2 or tokens < 2:
        raise RefusedError(
            f"{WORLD}.context_length={tokens}: allowed are even numbers from 2 on, two tokens a step"
        )
    return {"model.context_steps": tokens // 2}


def without_effect(values: Values) -> set[str]:
    """Mapped keys that others of this config overrule."""
    found = set()
    if values["policy.update_per_collect"] is not None:
        found.add("policy.replay_ratio")
    if None not in (
        values["policy.collect_num_simulations"],
        values["policy.eval_num_simulations"],
    ):
        found.add("policy.num_simulations")
    if values[RANGES[0]] is not None:
        found |= {"policy.model.support_scale", f"{WORLD}.support_size"}
    is_vector = values[f"{WORLD}.obs_type"] == "vector"
    if is_vector:
        found.add(f"{WORLD}.encoder_type")
    if is_vector or values[f"{WORLD}.encoder_type"] != "resnet":
        found |= {"policy.model.num_res_blocks", "policy.model.num_channels"}
    return found


SIMPLE: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "env.full_action_space": ("env.minimal_actions", lambda value: not value),
    "policy.gumbel_algo": ("policy.search.kind", lambda value: "gumbel" if value else "puct"),
    "policy.cuda": ("device", lambda value: "auto" if value else "cpu"),
    "policy.use_augmentation": ("policy.shift_pixels", lambda value: SHIFT if value else 0),
    f"{WORLD}.task_embed_option": (
        "model.task_embedding",
        lambda value: one_of(f"{WORLD}.task_embed_option", value, TASK_EMBEDDINGS),
    ),
}
"""Keys that become one field each, through a function of their value alone."""
TOGETHER: tuple[Callable[[Values], Fields], ...] = (
    rhythm,
    picture,
    latent_norm,
    support,
    mixture,
    simulations,
    context,
)
"""Fields that several keys make, or a key and a check."""
MADE_TOGETHER = frozenset(
    {
        *("exp_name", "env.env_id", "create_config.env.type", "policy.batch_size"),
        *("env.observation_shape", "policy.update_per_collect", "policy.replay_ratio"),
        *("policy.num_segments", "policy.game_segment_length", "policy.eval_freq"),
        *("policy.num_simulations", "policy.collect_num_simulations"),
        *("policy.eval_num_simulations", "policy.model.num_res_blocks"),
        *("policy.model.num_channels", "policy.model.support_scale"),
        *("policy.model.reward_support_range", "policy.model.value_support_range"),
        *(f"{WORLD}.{name}" for name in ("support_size", "context_length", "encoder_type")),
        *(f"{WORLD}.{name}" for name in ("obs_type", "final_norm_option_in_encoder")),
        *(f"{WORLD}.{name}" for name in ("predict_latent_loss_type", "n_shared_experts")),
        f"{WORLD}.multiplication_moe_in_transformer",
        f"{WORLD}.num_experts_of_moe_in_transformer",
        f"{WORLD}.num_experts_per_tok",
    }
)
"""Mapped keys that :data:`TOGETHER`, :func:`encoder` or :func:`batch_sizes` and its like look at."""


NUMBER_OR_NONE = frozenset(
    {
        *("policy.update_per_collect", "policy.collect_num_simulations"),
        *("policy.eval_num_simulations", "env.collect_max_episode_steps"),
    }
)
"""Keys whose default is no number, but whose values are."""
RANGES = ("policy.model.reward_support_range", "policy.model.value_support_range")
AT_LEAST_ONE = frozenset(
    {"env.collector_env_num", "policy.num_segments", "policy.game_segment_length"}
)
"""Keys that others are divided by."""


def type_problem(path: str, value: Any, default: Any) -> str:
    """What is wrong with the type of a mapped value; nothing if it is empty."""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "allowed are True and False"
    if path in NUMBER_OR_NONE and value is None:
        return ""
    if path in NUMBER_OR_NONE or isinstance(default, int | float):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "allowed is a number"
    if path in RANGES and value is not None:
        is_range = isinstance(value, list | tuple)
        if not is_range or not all(isinstance(one, int | float) for one in value):
            return "allowed are three numbers"
    if path in AT_LEAST_ONE and value < 1:
        return "allowed are numbers from 1 on"
    return ""


def game_of(env_id: str, games: Sequence[str]) -> str:
    """The game that LightZero's environment id names: ``PongNoFrameskip-v4`` and ``ALE/Pong-v5`` are
    Pong.

    Raises:
        RefusedError: if the domain has no such game.
    """
    name = str(env_id).rpartition("/")[2].partition("-v")[0].removesuffix("NoFrameskip")
    if name not in games:
        raise RefusedError(
            f"env.env_id={env_id!r}: unknown game {name!r}; {nearest(name, list(games))}"
        )
    return name


def batch_size_of(values: Values, task_id: int) -> int:
    """Windows of a task in one update, from a number or a list by task.

    Raises:
        RefusedError: if the list is too short, or one is no whole number from 1 on.
    """
    sizes = values["policy.batch_size"]
    try:
        if not isinstance(sizes, list | tuple):
            return checks.count("policy.batch_size", sizes)
        if not 0 <= task_id < len(sizes):
            raise RefusedError(
                f"policy.batch_size={list(sizes)} has {len(sizes)} numbers, none for task {task_id}; "
                "give one per task"
            )
        return checks.count(f"policy.batch_size[{task_id}]", sizes[task_id])
    except TypeError as error:
        raise RefusedError(str(error)) from error
