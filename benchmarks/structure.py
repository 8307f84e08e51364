"""How much a reader has to hold in mind: what one update enters, and how the source is written.

python benchmarks/structure.py            # prints every figure; needs radon for the complexity of blocks (pip install radon)

"One update" is a plain one of Catch's MoE preset, without measuring conflict: functions of lzero that it enters, files they
are in, and dataclasses it makes. Comprehensions are counted per 1,000 lines that hold code.
"""

import ast
import dataclasses
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import rich
import tyro

from lzero.config import ExperimentConfig
from lzero.entry.run import Run
from zoo.catch.config.presets import presets

ROOT = Path(__file__).parents[1]
LZERO = ROOT / "lzero"
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
MOST_COMPLEX = 5  # blocks that are named


def functions_of(code: CodeType) -> bool:
    """Whether code is a function somebody wrote and named, not a comprehension or a lambda."""
    return not code.co_name.startswith("<")


class Walk:
    """Profile hook that notes what of lzero is entered."""

    def __init__(self) -> None:
        self.functions: set[CodeType] = set()
        self.records: set[str] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call":
            return
        code = frame.f_code
        if code.co_filename.startswith(str(LZERO)):
            if functions_of(code):
                self.functions.add(code)
        elif code.co_name == "__init__" and code.co_filename == "<string>":  # made by dataclasses
            kind = type(frame.f_locals["self"])
            if kind.__module__.startswith("lzero") and dataclasses.is_dataclass(kind):
                self.records.add(f"{kind.__module__}.{kind.__name__}")


def one_update() -> Walk:
    """Train Catch until there is something to learn from, then walk along one update."""
    config = presets(moe=True)["both"][1].model_dump()
    config |= {"exp_name": "structure", "output_dir": "runs"}
    config["policy"]["gradient_conflict_interval"] = 0
    walk = Walk()
    with Run(
        ExperimentConfig.model_validate(config), seed=0, max_env_steps=640, resume=False
    ) as run:
        run.collector.collect(40, random=True)
        windows = run.replay.sample(run.batch_sizes, run.rngs["replay"])
        run.policy.learn(windows)
        windows = run.replay.sample(run.batch_sizes, run.rngs["replay"])
        sys.setprofile(walk)
        run.policy.learn(windows)
        sys.setprofile(None)
    return walk


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    lines: set[int] = set()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type in (tokenize.OP, tokenize.NAME, tokenize.NUMBER) or (
                token.type == tokenize.STRING and not token.line.lstrip().startswith(('"""', "'''"))
            ):
                lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def comprehensions(path: Path) -> tuple[int, int]:
    """How many there are, and how many of them lie inside another one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, COMPREHENSIONS)]
    inside = sum(
        isinstance(inner, COMPREHENSIONS) for node in found for inner in ast.walk(node)
    ) - len(found)
    return len(found), inside


def rooms() -> Iterator[tuple[str, list[Path]]]:
    """Rooms of lzero with their files; single modules are one room."""
    yield "lzero", sorted(LZERO.glob("*.py"))
    for folder in sorted(path for path in LZERO.iterdir() if path.is_dir()):
        yield folder.name, sorted(folder.rglob("*.py"))
    yield "zoo", sorted((ROOT / "zoo").rglob("*.py"))


def main() -> None:
    """Print the figures."""
    tyro.cli(lambda: None, description=__doc__)
    walk = one_update()
    files = {code.co_filename for code in walk.functions}
    rich.print(
        f"one update: {len(walk.functions)} functions in {len(files)} files, {len(walk.records)} record types"
    )
    for path in sorted(files):
        names = sorted(code.co_qualname for code in walk.functions if code.co_filename == path)
        rich.print(f"  {Path(path).relative_to(ROOT)}: {', '.join(names)}")
    rich.print(f"  records: {', '.join(sorted(walk.records))}")
    for name, paths in rooms():
        lines, all_lines, count, inside = 0, 0, 0, 0
        for path in paths:
            here, nested = comprehensions(path)
            lines, count, inside = lines + code_lines(path), count + here, inside + nested
            all_lines += len(path.read_text(encoding="utf-8").splitlines())
        if lines:
            share = count / lines * 1000
            rich.print(
                f"{name}: {all_lines} lines, {share:.0f} comprehensions per 1,000 of code, {inside} nested"
            )


if __name__ == "__main__":
    main()
