"""Environments: gymnasium vector envs of several tasks, stepped as one."""

from lzero.envs.multitask import EnvStep, MultiTaskVectorEnv, task_seed
from lzero.envs.task import Layout, TaskEnv

__all__ = ["EnvStep", "Layout", "MultiTaskVectorEnv", "TaskEnv", "task_seed"]
