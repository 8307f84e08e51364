"""An experiment of lzero as the two configs that DI-engine asks for, and back.

DI-engine's config keeps its own keys where it expects them; what stands under a key ``lzero`` is ours, of the shape that the
schema has: the whole experiment in ``policy.lzero``, its section ``env`` again in ``env.lzero``, where environments read it.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from easydict import EasyDict

from lzero import checks
from lzero.config import ExperimentConfig, nearest
from lzero.envs.domain import with_domain_settings

POLICY_NAME = "unizero_multitask"
ENV_NAME = "lzero"
IMPORT_NAMES = ["lzero.ding"]

OURS = "lzero"
"""Key of our part in ``policy`` and in ``env``."""
POLICY_KEYS = (
    *("type", "import_names", "cfg_type", "lzero", "model", "learn", "collect", "eval", "other"),
    *("on_policy", "cuda", "multi_gpu", "bp_update_sync", "traj_len_inf"),
)
"""What DI-engine and this plug-in write into a policy's config."""
ENV_KEYS = (
    *("type", "import_names", "cfg_type", "lzero"),
    *("manager", "stop_value", "n_evaluator_episode"),
)
"""The same of an environment's config."""
MANAGERS = ("base", "base_v2", "async_subprocess", "subprocess", "subprocess_v2")
"""Environment managers of DI-engine that were tried."""


def ding_config(
    experiment: ExperimentConfig | Mapping[str, Any], *, manager: str = "base"
) -> tuple[EasyDict, EasyDict]:
    """``main_config`` and ``create_config`` of an experiment, as DI-engine's ``compile_config`` and our pipeline take them.

    Args:
        experiment: as :func:`~lzero.entry.train_unizero_multitask_segment_ddp` takes it.
        manager: name of DI-engine's environment manager.

    Raises:
        pydantic.ValidationError: if the experiment is not valid.
        ValueError: for another manager.
    """
    if manager not in MANAGERS:
        raise ValueError(f"manager={checks.shown(manager)}: allowed are {', '.join(MANAGERS)}")
    read = with_domain_settings(experiment)
    ours = read.model_dump(mode="json")
    main = EasyDict(
        # DI-engine writes below the folder it is started in, so its name is a path from there
        exp_name=os.path.relpath(read.run_dir),
        env={OURS: ours["env"], "n_evaluator_episode": read.train.eval_episodes},
        policy={
            OURS: ours,
            "learn": {"learner": {"hook": {"log_show_after_iter": read.train.log_interval}}},
        },
    )
    create = EasyDict(
        env={"type": ENV_NAME, "import_names": IMPORT_NAMES},
        env_manager={"type": manager},
        policy={"type": POLICY_NAME, "import_names": IMPORT_NAMES},
    )
    return main, create


def experiment_of(
    policy_cfg: Mapping[str, Any], env_cfg: Mapping[str, Any] | None = None
) -> ExperimentConfig:
    """The experiment that a compiled config asks for.

    Args:
        policy_cfg: section ``policy``.
        env_cfg: section ``env``; None where nobody but the policy is made of it.

    Raises:
        pydantic.ValidationError: if ``policy.lzero`` is no valid experiment.
        ValueError: for a key that neither DI-engine nor the plug-in knows, what lzero does in another way, or environments that
            are others than the policy's.
    """
    checks.mapping(
        "policy_cfg", policy_cfg, "section policy of a config, with our part in its key lzero"
    )
    _check_keys("policy", policy_cfg, POLICY_KEYS)
    if policy_cfg.get("cuda"):
        raise ValueError(
            "policy.cuda=True: lzero chooses the device; write policy.lzero.device='cuda' and leave policy.cuda False"
        )
    if policy_cfg.get("multi_gpu"):
        raise ValueError(
            "policy.multi_gpu=True: gradients are summed by lzero's own process group, not by DI-engine's, which knows nccl "
            "alone; leave it False and train with lzero.entry.train_unizero_multitask_segment_ddp on several processes"
        )
    fields = set(policy_cfg.get("model") or {}) - {"type", "import_names"}
    if fields:
        raise ValueError(
            f"policy.model has {', '.join(sorted(fields))}: the model's fields stand in policy.lzero.model"
        )
    experiment = with_domain_settings(policy_cfg[OURS])
    if env_cfg is not None:
        _check_keys("env", env_cfg, ENV_KEYS)
        env = with_domain_settings({"env": env_cfg[OURS]}).env
        if env != experiment.env:
            raise ValueError(
                f"env.lzero and policy.lzero.env differ in {_difference(env, experiment.env)}: write the same into both, or "
                "make the config with lzero.ding.ding_config"
            )
    return experiment


def in_folder(experiment: ExperimentConfig, exp_name: str) -> ExperimentConfig:
    """``experiment`` with the folder of DI-engine's ``exp_name`` as its own."""
    folder = Path(exp_name)
    return experiment.model_copy(update={"output_dir": folder.parent, "exp_name": folder.name})


def _check_keys(section: str, cfg: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse keys that nobody would read.

    Raises:
        ValueError: naming the key, and where it belongs.
    """
    if OURS not in cfg:
        raise ValueError(f"{section}.lzero is missing: make the config with lzero.ding.ding_config")
    for key in cfg:
        if key in known:
            continue
        place = "policy.lzero.policy" if section == "policy" else "env.lzero"
        raise ValueError(
            f"{section}.{key} is read by nobody: what is lzero's stands in {place} and beside it; "
            f"{nearest(key, list(known))}"
        )


def _difference(one: Any, other: Any) -> str:
    """Names of the fields in which two sections differ."""
    first, second = one.model_dump(), other.model_dump()
    names = sorted(first.keys() | second.keys())
    return ", ".join(name for name in names if first.get(name) != second.get(name))
