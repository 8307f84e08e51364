"""The serial pipeline trains, evaluates, saves and logs; bad calls are refused in one line."""

import math
from collections.abc import Callable

import pytest
from ding.policy import create_policy
from easydict import EasyDict
from pydantic import ValidationError
from torch import nn

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


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_pipeline_trains_evaluates_saves_and_logs(tmp_path):
    config = cases.experiment(
        **{"max_env_steps": 90, "random_steps": 20, "collect_steps": 10, "eval_interval": 60},
        **{"eval_episodes": 2, "log_interval": 2, "moe_log_interval": 4},
    )
    policy = serial_pipeline_unizero_multitask(ding_config(config), seed=cases.SEED)
    assert isinstance(policy, UniZeroMultitaskPolicy)
    # from the first round behind the random steps: 0.25 updates for each of (90 - 0) env steps, rounded as rounds end
    updates = policy.core.train_iter
    assert updates > 8
    folder = tmp_path / "runs" / "ding_catch"
    for file in ("ckpt/ckpt_best.pth.tar", f"ckpt/iteration_{updates}.pth.tar", "total_config.py"):
        assert (folder / file).stat().st_size > 0, file
    rows = read_metrics(folder / "metrics.jsonl")
    found = {}
    for row in rows:
        found |= {name: value for name, value in row.items() if isinstance(value, float)}
    assert math.isfinite(found["learn/loss"]) and -1 <= found["eval_return/Catch"] <= 1
    assert any(name.startswith("gradient_conflict/") for name in found)
    assert any(name.startswith("MOE_") for name in found)


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
    "manager": Bad(
        lambda: ding_config({}, manager="vector"), ValueError, r"manager='vector'.*base"
    ),
    "config of nothing": Bad(lambda: experiment_of({}), ValueError, "policy.lzero is missing"),
    "config of a number": Bad(lambda: experiment_of(3), TypeError, "policy_cfg=3"),
    "cuda": Bad(policy_with(cuda=True), ValueError, "policy.cuda=True.*lzero.device"),
    "multi_gpu": Bad(policy_with(multi_gpu=True), ValueError, "policy.multi_gpu=True"),
    "key of nobody": Bad(policy_with(batch_size=8), ValueError, "policy.batch_size.*policy.lzero"),
    "model's fields": Bad(policy_with(model={"width": 3}), ValueError, "policy.model has width"),
    "wrong field": Bad(policy_with(lzero={"modle": {}}), ValidationError, "modle"),
    "other environments": Bad(
        lambda: pipeline(lzero={"domain": "zoo.catch.domain:CATCH", "games": ["Catch"]}),
        ValueError,
        "env.lzero and policy.lzero.env differ in .*games",
    ),
    "environment's key": Bad(
        lambda: pipeline(collector_env_num=8), ValueError, "collector_env_num"
    ),
    "input_cfg": Bad(lambda: serial_pipeline_unizero_multitask(3), TypeError, "input_cfg=3"),
    "seed": Bad(
        lambda: serial_pipeline_unizero_multitask(ding_config(cases.experiment()), seed=-1),
        ValueError,
        "seed=-1",
    ),
    "max_env_step": Bad(
        lambda: serial_pipeline_unizero_multitask(ding_config(cases.experiment()), max_env_step=0),
        ValueError,
        "max_env_step=0",
    ),
    "another model": Bad(
        lambda: create_policy(cases.compiled(cases.experiment()).policy, model=nn.Linear(1, 1)),
        TypeError,
        "model=.*UniZeroMTModel",
    ),
    "model of a number": Bad(lambda: create_unizero_model(3), ValidationError, "3"),
    "task of an environment": Bad(lambda: env(task_id=2), ValueError, "task_id=2"),
    "environment's config": Bad(lambda: LZeroEnv({}), ValueError, "cfg lacks lzero"),
    "step before reset": Bad(lambda: env().step(0), RuntimeError, r"call reset\(\) first"),
    "task of environments": Bad(
        lambda: env_cfgs(
            {"domain": "zoo.catch.domain:CATCH", "games": ["Catch"]}, training=True, tasks=[1]
        ),
        ValueError,
        "tasks=1",
    ),
    "rings": Bad(lambda: collector(envs=5), ValueError, "5 environments, replay 6 rings"),
    "reset in place": Bad(lambda: collector(reset_inplace=True), ValueError, "reset_inplace"),
    "row": Bad(lambda: acted({6: None}), ValueError, "rows=6"),
    "no windows": Bad(lambda: acted([], "learn_mode"), TypeError, "data=.*ReplayWindows"),
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
