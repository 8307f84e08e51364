"""The serial pipeline trains, evaluates, saves and logs; bad calls are refused in one line."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ding.config import read_config
from ding.policy import create_policy
from easydict import EasyDict
from pydantic import ValidationError
from torch import nn

import lzero
from lzero.analysis.drawing_budget import PictureSchedule
from lzero.ding import (
    LZeroEnv,
    ManagedCollector,
    UniZeroMultitaskPolicy,
    create_unizero_model,
    ding_config,
    env_cfgs,
    experiment_of,
    serial_pipeline_unizero_multitask,
)
from lzero.logging import read_metrics
from tests.bad_calls.bad import Bad
from tests.ding import cases
from tests.test_bad_calls import is_clear

SCRIPT = Path(lzero.__file__).parents[1] / "zoo/catch/config/catch_unizero_multitask_ding_config.py"


@pytest.fixture(autouse=True)
def in_an_empty_folder_without_pictures(tmp_path, monkeypatch):
    """Pictures take longer than everything else here, and have tests of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PictureSchedule, "_draw", lambda *_, **__: None)


def test_the_pipeline_trains_evaluates_saves_and_logs(tmp_path):
    config = cases.experiment(
        **{"max_env_steps": 60, "random_steps": 20, "collect_steps": 10, "eval_interval": 30},
        **{"eval_episodes": 2, "log_interval": 2, "moe_log_interval": 4},
    )
    policy = serial_pipeline_unizero_multitask(ding_config(config), seed=cases.SEED)
    assert isinstance(policy, UniZeroMultitaskPolicy)
    # as in our own run: those of all env steps from the beginning of the round in which the random steps end, the first one
    updates = policy.core.train_iter
    assert updates == int(config.policy.replay_ratio * 60)
    folder = tmp_path / "runs" / "ding_catch"
    for file in ("ckpt/ckpt_best.pth.tar", f"ckpt/iteration_{updates}.pth.tar", "total_config.py"):
        assert (folder / file).stat().st_size > 0, file
    found = {}
    for row in read_metrics(folder / "metrics.jsonl"):
        found |= row.get("metrics", {})
    assert math.isfinite(found["learn/loss"]) and -1 <= found["eval_return/Catch"] <= 1
    assert any(name.startswith("gradient_conflict/") for name in found)
    assert any(name.startswith("moe_") for name in found)


def test_other_environments_a_given_model_and_a_limit_of_updates(tmp_path):
    config = cases.experiment(collect_steps=10, eval_episodes=1)
    main, create = ding_config(config, manager="subprocess_v2")
    env = main.env.lzero
    setting = (LZeroEnv, env_cfgs(env, training=True), env_cfgs(env, training=False))
    model = create_unizero_model(main.policy.lzero)
    policy = serial_pipeline_unizero_multitask(
        (main, create), 1, env_setting=setting, model=model, max_train_iter=2
    )
    assert policy.core.model is model and policy.core.train_iter == 2
    assert (tmp_path / "runs" / "ding_catch" / "ckpt" / "iteration_2.pth.tar").is_file()


def test_the_script_of_catch_is_a_config_that_di_engine_reads():
    main, create = read_config(str(SCRIPT))
    assert experiment_of(main.policy, main.env).exp_name == "catch_ding"
    assert create.policy.type == "unizero_multitask"


def policy_with(**changes) -> Callable[[], object]:
    def call() -> object:
        cfg = EasyDict(cases.compiled(cases.experiment()).policy, **changes)
        return create_policy(cfg)

    return call


def pipeline(**changes) -> object:
    main, create = ding_config(cases.experiment())
    main.env.update(changes)
    return serial_pipeline_unizero_multitask((main, create))


def env(**changes) -> LZeroEnv:
    [one, *_] = env_cfgs(cases.compiled(cases.experiment()).env.lzero, training=True)
    return LZeroEnv(one | changes)


def collector(envs: int = 6, **settings) -> ManagedCollector:
    manager = EasyDict(env_num=envs, _cfg=settings)
    parts = cases.made(cases.experiment())
    return ManagedCollector(manager, None, parts.replay, parts.foundation.env.legal_actions)


def acted(rows: dict, mode: str = "collect_mode") -> object:
    policy = create_policy(cases.compiled(cases.experiment()).policy)
    return getattr(policy, mode).forward(rows)


CASES = {
    "manager": Bad(lambda: ding_config({}, manager="vector"), "manager='vector'.*base", ValueError),
    "config of nothing": Bad(lambda: experiment_of({}), "policy.lzero is missing", ValueError),
    "config of a number": Bad(lambda: experiment_of(3), "policy_cfg=3", TypeError),
    "cuda": Bad(policy_with(cuda=True), "policy.cuda=True.*lzero.device", ValueError),
    "multi_gpu": Bad(policy_with(multi_gpu=True), "policy.multi_gpu=True", ValueError),
    "key of nobody": Bad(policy_with(batch_size=8), "policy.batch_size.*policy.lzero", ValueError),
    "model's fields": Bad(policy_with(model={"width": 3}), "policy.model has width", ValueError),
    "wrong field": Bad(policy_with(lzero={"modle": {}}), "modle", ValidationError),
    "other environments": Bad(
        lambda: pipeline(lzero={"domain": "zoo.catch.domain:CATCH", "games": ["Catch"]}),
        "env.lzero and policy.lzero.env differ in .*games",
        ValueError,
    ),
    "environment's key": Bad(
        lambda: pipeline(collector_env_num=8), "env.collector_env_num", ValueError
    ),
    "input_cfg": Bad(lambda: serial_pipeline_unizero_multitask(3), "input_cfg=3", TypeError),
    "environments that evaluate": Bad(
        lambda: serial_pipeline_unizero_multitask(
            ding_config(cases.experiment()),
            env_setting=(
                LZeroEnv,
                env_cfgs(cases.compiled(cases.experiment()).env.lzero, training=True),
                [{}],
            ),
        ),
        "env_setting has no config with task_id=0",
        ValueError,
    ),
    "profile": Bad(
        lambda: serial_pipeline_unizero_multitask(ding_config(cases.experiment(profile=True))),
        "policy.lzero.policy.profile",
        ValueError,
    ),
    "seed": Bad(
        lambda: serial_pipeline_unizero_multitask(ding_config(cases.experiment()), seed=-1),
        "seed=-1",
        ValueError,
    ),
    "max_env_step": Bad(
        lambda: serial_pipeline_unizero_multitask(ding_config(cases.experiment()), max_env_step=0),
        "max_env_step=0",
        ValueError,
    ),
    "another model": Bad(
        lambda: create_policy(cases.compiled(cases.experiment()).policy, model=nn.Linear(1, 1)),
        "model=.*a UniZeroMTModel",
        TypeError,
    ),
    "model of a number": Bad(lambda: create_unizero_model(3), "3", ValidationError),
    "task of an environment": Bad(lambda: env(task_id=2), "task_id=2", ValueError),
    "environment's config": Bad(lambda: LZeroEnv({}), "cfg lacks lzero", ValueError),
    "step before reset": Bad(lambda: env().step(0), r"call reset\(\) first", RuntimeError),
    "task of environments": Bad(
        lambda: env_cfgs(
            {"domain": "zoo.catch.domain:CATCH", "games": ["Catch"]}, training=True, tasks=[1]
        ),
        "tasks=1",
        ValueError,
    ),
    "rings": Bad(lambda: collector(envs=5), "5 environments, replay 6 rings", ValueError),
    "reset in place": Bad(lambda: collector(reset_inplace=True), "reset_inplace", ValueError),
    "row": Bad(lambda: acted({6: np.zeros((2, 8, 5), np.uint8)}), "rows=6", ValueError),
    "no windows": Bad(lambda: acted([], "learn_mode"), "data=.*ReplayWindows", TypeError),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_calls_are_refused(name):
    bad = CASES[name]
    with pytest.raises(BaseException) as caught:  # noqa: B017, PT011 (looked at below)
        bad.call()
    assert is_clear(bad, caught.value), repr(caught.value)


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE=2.*one process"):
        serial_pipeline_unizero_multitask(ding_config(cases.experiment()))
