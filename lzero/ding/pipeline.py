"""DI-engine's serial pipeline for multi-task UniZero: its configs, environment managers, learner and evaluators around our
replay, search and update."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from typing import Any

from ding.config import compile_config, read_config
from ding.envs import BaseEnvManager, create_env_manager, get_vec_env_setting
from ding.policy import create_policy
from ding.utils import set_pkg_seed
from easydict import EasyDict

from lzero import checks
from lzero.config import ExperimentConfig
from lzero.ding.collector import close_manager
from lzero.ding.config import experiment_of, in_folder
from lzero.ding.policy import UniZeroMultitaskPolicy
from lzero.ding.serial_run import SerialRun
from lzero.distributed import MOST_PROCESSES
from lzero.entry.build import build
from lzero.entry.checkpointing import env_seed
from lzero.entry.result import SEEDS
from lzero.model.unizero_model_multitask import UniZeroMTModel

EnvSetting = tuple[type, Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]
"""Class of the environments, and configs of those that collect and those that evaluate, sorted by task."""


def serial_pipeline_unizero_multitask(
    input_cfg: str | tuple[Mapping[str, Any], Mapping[str, Any]],
    seed: int = 0,
    env_setting: EnvSetting | None = None,
    model: UniZeroMTModel | None = None,
    max_train_iter: int | None = None,
    max_env_step: int | None = None,
) -> UniZeroMultitaskPolicy:
    """Train one agent on all games of a config, in one process.

    Rounds are those of :func:`~lzero.entry.train_unizero_multitask_segment_ddp`: ``policy.lzero.train`` says how long they are,
    when games are evaluated and when training ends. Files go to the folder ``exp_name``: DI-engine's ``log``, ``ckpt`` and
    ``total_config.py``, our ``metrics.jsonl``, ``tb`` and ``config.json``, which ``python -m lzero.report`` reads.

    Args:
        input_cfg: ``(main_config, create_config)`` as :func:`~lzero.ding.ding_config` makes them, or the path of a Python file
            that has both.
        seed: of parameters, environments, search and sampling.
        env_setting: other environments than the config names; configs sorted by task, as many as it says.
        model: to go on with; None makes one.
        max_train_iter: updates after which training ends too; None sets no limit.
        max_env_step: env steps per game; None takes ``policy.lzero.train.max_env_steps``.

    Raises:
        pydantic.ValidationError: if the experiment in the config is not valid.
        TypeError: if the config or a number is of another type.
        ValueError: if a number is out of range, the config has a key that nobody reads, or there are several processes.
        RunError: if the machine lacks something that the config asks for.
        FloatingPointError: if the loss or its gradient stops being a number.
    """
    main, create = _configs(input_cfg)
    checks.count("seed", seed, 0, SEEDS - 1)
    for name, limit in (("max_train_iter", max_train_iter), ("max_env_step", max_env_step)):
        if limit is not None:
            checks.count(name, limit)
    processes = checks.announced("WORLD_SIZE", 1, MOST_PROCESSES)
    if processes > 1:
        raise ValueError(
            f"WORLD_SIZE={processes}: DI-engine's learner and evaluators are made for one process here; several train with "
            "lzero.entry.train_unizero_multitask_segment_ddp"
        )
    wanted = experiment_of(main.policy, main.env)  # refused before anything is written
    profile = wanted.policy.profile
    if profile.line_profiler or profile.torch_profiler:
        raise ValueError(
            "policy.lzero.policy.profile: DI-engine's pipeline profiles nothing; set both of its fields to False, or profile "
            "lzero.entry.train_unizero_multitask_segment_ddp"
        )
    cfg = compile_config(
        main,
        seed=seed,
        env=None if env_setting is None else env_setting[0],
        auto=True,
        create_cfg=create,
        renew_dir=not main.policy.get("learn", {}).get("resume_training", False),
    )
    experiment = in_folder(experiment_of(cfg.policy, cfg.env), cfg.exp_name)

    # of DI-engine's own draws, and numpy takes no larger one; ours have generators of their own
    set_pkg_seed(seed % 2**32, use_cuda=False)
    parts = build(experiment, seed, model)
    parts.foundation.env.close()  # managers play instead
    policy = create_policy(cfg.policy, parts=parts)
    if env_setting is None:
        env_setting = get_vec_env_setting(deepcopy(cfg.env))
    limit = max_env_step or experiment.train.max_env_steps
    with ExitStack() as closing:
        collecting, evaluating = _managers(cfg, experiment, env_setting)
        for manager in (collecting, *evaluating):
            closing.callback(close_manager, manager)
        run = SerialRun(cfg, experiment, parts, policy, collecting, evaluating, limit)
        closing.enter_context(run).train(max_train_iter)
    return policy


def _configs(input_cfg: Any) -> tuple[EasyDict, EasyDict]:
    """Copies of both configs; TypeError where there are none."""
    if isinstance(input_cfg, str):
        input_cfg = read_config(input_cfg)
    is_pair = isinstance(input_cfg, tuple | list) and len(input_cfg) == 2
    if not is_pair or not all(isinstance(one, Mapping) for one in input_cfg):
        raise TypeError(
            f"input_cfg={checks.shown(input_cfg)}: allowed is (main_config, create_config), as lzero.ding.ding_config makes "
            "them, or the path of a file that has both"
        )
    main, create = (EasyDict(deepcopy(dict(one))) for one in input_cfg)
    for name in ("env", "policy"):
        if name not in main:
            raise ValueError(f"main_config lacks {name}: make it with lzero.ding.ding_config")
    return main, create


def _managers(
    cfg: EasyDict, experiment: ExperimentConfig, env_setting: EnvSetting
) -> tuple[BaseEnvManager, list[BaseEnvManager]]:
    """Managers of the environments that collect, and of those that evaluate each game; seeded, not launched."""
    env_class, collector_cfgs, evaluator_cfgs = env_setting
    # DI-engine's evaluator goes by numbers of environments, which managers with _v2 do not give
    evaluators = EasyDict(cfg.env.manager, type=cfg.env.manager.type.removesuffix("_v2"))
    collecting = _manager(cfg.env.manager, env_class, collector_cfgs)
    collecting.seed([env_seed(cfg.seed, 0)] * collecting.env_num)
    evaluating = []
    for task in range(experiment.num_tasks):
        own = [one for one in evaluator_cfgs if one.get("task_id") == task]
        if not own:
            raise ValueError(
                f"env_setting has no config with task_id={task} that evaluates; make them with lzero.ding.env_cfgs"
            )
        own = own[: experiment.train.eval_episodes]  # its monitor wants an episode of each
        manager = _manager(evaluators, env_class, own)
        # never an episode that is collected
        manager.seed([env_seed(cfg.seed, 1)] * manager.env_num, dynamic_seed=False)
        evaluating.append(manager)
    return collecting, evaluating


def _manager(
    settings: EasyDict, env_class: type, env_cfgs: Sequence[Mapping[str, Any]]
) -> BaseEnvManager:
    return create_env_manager(settings, [partial(env_class, cfg=one) for one in env_cfgs])
