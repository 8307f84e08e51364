"""Agents in one file: written, read, played and analysed."""

from pathlib import Path

import numpy as np

from lzero.checkpoint import CheckpointError
from lzero.checkpoint.export_file import ExportError, read_export, write_export
from lzero.distributed import Distributed
from lzero.entry.analyse_experts import analyse_experts
from lzero.entry.eval_unizero_multitask import eval_unizero_multitask, load_policy
from lzero.entry.export import export_agent
from lzero.entry.played_replay import played_replay, steps_to_play
from lzero.policy import UniZeroMTPolicy
from tests.bad_calls.bad import Bad
from zoo.catch.config.presets import presets

CONFIG = presets(moe=True)["both"][1]


def nothing(folder: Path) -> Path:
    """A file that is no zip."""
    (folder / "none.zip").write_bytes(b"nothing")
    return folder / "none.zip"


def policy() -> UniZeroMTPolicy:
    return UniZeroMTPolicy(CONFIG, (2, 8, 5), np.ones((2, 3), bool))


CASES = {
    "evaluate into a number": Bad(
        lambda folder: eval_unizero_multitask(nothing(folder), output_dir=3),
        "output_dir=3",
        TypeError,
    ),
    "evaluate a file that is no export": Bad(
        lambda folder: eval_unizero_multitask(nothing(folder)), "no readable zip", CheckpointError
    ),
    "analyse into a number": Bad(
        lambda folder: analyse_experts(nothing(folder), output_dir=3), "output_dir=3", TypeError
    ),
    "analyse a file that is no export": Bad(
        lambda folder: analyse_experts(nothing(folder)), "no readable zip", CheckpointError
    ),
    "agent of a number": Bad(lambda: UniZeroMTPolicy.from_export(3), "path=3", TypeError),
    "agent of no file": Bad(
        lambda folder: UniZeroMTPolicy.from_export(folder / "none.zip"),
        "none.zip is no file",
        ExportError,
    ),
    "agent of no export": Bad(
        lambda folder: UniZeroMTPolicy.from_export(nothing(folder)), "no readable zip", ExportError
    ),
    "agent on an unknown device": Bad(
        lambda folder: UniZeroMTPolicy.from_export(folder, device="tpu"), "device='tpu'"
    ),
    "agent without simulations": Bad(
        lambda folder: load_policy(nothing(folder), simulations=0), "simulations=0"
    ),
    "read a number as an export": Bad(lambda: read_export(3), "path=3", TypeError),
    "write an export to a number": Bad(lambda: write_export(3, {}), "path=3", TypeError),
    "write an export of nothing": Bad(
        lambda folder: write_export(folder / "a.zip", {}), "README.md, agent.json"
    ),
    "write an export with a folder's name": Bad(
        lambda folder: write_export(folder / "a.zip", {"../a": b""}), "'../a' is no plain name"
    ),
    "export a number": Bad(lambda folder: export_agent(3, folder / "a.zip"), "path=3", TypeError),
    "export to a number": Bad(lambda folder: export_agent(folder, 3), "out=3", TypeError),
    "export nothing": Bad(
        lambda folder: export_agent(folder, folder / "a.zip"),
        "holds no checkpoint",
        CheckpointError,
    ),
    "play no windows": Bad(lambda: played_replay(policy(), 0, 0, Distributed()), "windows=0"),
    "steps of no windows": Bad(lambda: steps_to_play(CONFIG, 0), "windows=0"),
}
