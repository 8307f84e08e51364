"""What is typed: paths of runs, files of experiments and sweeps, names of domains, programs side by side."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lzero.command.jobs import run_jobs
from lzero.command.sweep_file import read_sweep
from lzero.console.config_files import (
    ConfigFileError,
    experiment_of,
    read_config_file,
    read_mapping,
)
from lzero.console.domains import UnknownDomainError, find_domain
from lzero.run_paths import RunPathError, SeveralRunsError, find_checkpoint, find_run, find_runs
from tests.bad_calls.bad import Bad


def of_text(
    read: Callable[[Path], Any], text: str | bytes, name: str = "x.yaml"
) -> Callable[[Path], Any]:
    """A call with a file that holds ``text``."""

    def call(folder: Path) -> Any:
        data = text if isinstance(text, bytes) else text.encode()
        (folder / name).write_bytes(data)
        return read(folder / name)

    return call


def two_runs(folder: Path) -> Path:
    for name in ("a", "b"):
        (folder / name / "checkpoints" / "step_000001").mkdir(parents=True)
    return folder


def sweep(text: str) -> Callable[[Path], Any]:
    return of_text(read_sweep, "output_dir: out\n" + text)


CATCH = "base: catch-moe both\n"

CASES = {
    "runs of a number": Bad(lambda: find_runs(3), "path=3", TypeError),
    "runs of nothing": Bad(
        lambda folder: find_runs(folder / "x"), "x does not exist", RunPathError
    ),
    "runs of an empty folder": Bad(find_runs, "is no run and holds none", RunPathError),
    "runs of no name": Bad(lambda: find_runs("\0"), "^'.x00' does not exist", RunPathError),
    "one run of two": Bad(
        lambda folder: find_run(two_runs(folder)), "holds 2 runs; name one", SeveralRunsError
    ),
    "one checkpoint of two runs": Bad(
        lambda folder: find_checkpoint(two_runs(folder)), "holds 2 runs", SeveralRunsError
    ),
    "checkpoint of an empty folder": Bad(find_checkpoint, "holds no checkpoint", RunPathError),
    "experiment of a number": Bad(lambda: read_config_file(3), "path=3", TypeError),
    "experiment of no file": Bad(
        lambda folder: read_config_file(folder / "x.yaml"), "does not exist", ConfigFileError
    ),
    "experiment of no run": Bad(read_config_file, "is no run", ConfigFileError),
    "experiment of a broken JSON": Bad(
        of_text(read_config_file, '{"a": }', "x.json"), "line 1.*no JSON", ConfigFileError
    ),
    "experiment of a broken YAML": Bad(
        of_text(read_config_file, "a:\n  b: [1\n"), r"x.yaml, line 3.*no YAML", ConfigFileError
    ),
    "experiment of bytes": Bad(
        of_text(read_mapping, b"\xff\xfe\x00"), "cannot be read", ConfigFileError
    ),
    "experiment of a list": Bad(
        of_text(read_mapping, "- 1\n"), "write keys and values", ConfigFileError
    ),
    "experiment of two keys in JSON": Bad(
        of_text(read_mapping, '{"a": 1, "a": 2}', "x.json"), "'a' is there twice", ConfigFileError
    ),
    "experiment of two keys in YAML": Bad(
        of_text(read_mapping, "a: 1\na: 2\n"), "line 2.*'a' is there twice", ConfigFileError
    ),
    "experiment of a wrong key": Bad(
        of_text(read_config_file, "policy: {lerning_rate: 1}\n"),
        r"x.yaml: policy: .*'lerning_rate'; did you mean policy.optimiser.learning_rate\?",
        ConfigFileError,
    ),
    "experiment of a number like people write it": Bad(
        of_text(read_config_file, "train: {max_env_steps: 400k}\n"),
        "x.yaml: train.max_env_steps='400k'.*write 400000",
        ConfigFileError,
    ),
    "experiment of a negative seed": Bad(
        of_text(read_config_file, "seed: -1\n"), "seed=-1: write a whole", ConfigFileError
    ),
    "experiment of a strange domain": Bad(
        of_text(read_config_file, "env: {domain: 'os:system'}\n"),
        "--allow-domain os:system",
        ConfigFileError,
    ),
    "experiment of another algorithm": Bad(
        lambda: experiment_of({"algorithm": "dqn"}, "here"),
        "here: algorithm='dqn': allowed are unizero, ppo",
        ConfigFileError,
    ),
    "domain of another name": Bad(
        lambda: find_domain("catsh"), "'catsh'; did you mean 'catch'", UnknownDomainError
    ),
    "sweep of nothing": Bad(sweep(""), "write either base: ", ConfigFileError),
    "sweep of two bases": Bad(
        sweep(f"{CATCH}config: y.json\n"), "write either base: ", ConfigFileError
    ),
    "sweep of a wrong key": Bad(
        sweep(f"{CATCH}sedes: [1]\n"), "'sedes'; did you mean 'seeds'", ConfigFileError
    ),
    "sweep of a field at the top": Bad(
        sweep(f"{CATCH}learning_rate: [1]\n"), "go under set: or grid:", ConfigFileError
    ),
    "sweep of an unknown preset": Bad(
        sweep("base: catch-moe bothh\n"), "no preset 'bothh'.*both, blind", ConfigFileError
    ),
    "sweep of an unknown domain": Bad(
        sweep("base: catsh\n"), "did you mean 'catch'", ConfigFileError
    ),
    "sweep of an unknown field": Bad(
        sweep(f"{CATCH}grid: {{policy.learning_rate: [1]}}\n"),
        "grid: unknown field 'policy.learning_rate'; .* is policy.optimiser.learning_rate",
        ConfigFileError,
    ),
    "sweep of a section": Bad(
        sweep(f"{CATCH}grid: {{model.moe: [1]}}\n"), "model.moe is a section", ConfigFileError
    ),
    "sweep of seeds in the grid": Bad(
        sweep(f"{CATCH}grid: {{seed: [1]}}\n"), r"write|seeds: \[0, 1, 2\]", ConfigFileError
    ),
    "sweep of no values": Bad(
        sweep(f"{CATCH}grid: {{policy.batch_size: []}}\n"), "has no values", ConfigFileError
    ),
    "sweep of a field twice": Bad(
        sweep(f"{CATCH}set: {{policy.batch_size: 8}}\ngrid: {{policy.batch_size: [4]}}\n"),
        "in set and in grid",
        ConfigFileError,
    ),
    "sweep of a bad value": Bad(
        sweep(f"{CATCH}grid: {{policy.batch_size: [8, 0]}}\n"),
        "run batch_size_0_s0: policy.batch_size=0",
        ConfigFileError,
    ),
    "sweep of a seed twice": Bad(
        sweep(f"{CATCH}seeds: [1, 1]\n"), "seeds: 1 is there twice", ConfigFileError
    ),
    "sweep of a value twice": Bad(
        sweep(f"{CATCH}grid: {{policy.batch_size: [8, 8]}}\n"), "several runs", ConfigFileError
    ),
    "no program at a time": Bad(lambda: run_jobs([], 0), "side_by_side=0"),
    "half a program at a time": Bad(lambda: run_jobs([], 0.5), "side_by_side=0.5", TypeError),
}
