"""The recipes in docs/ run as they are printed."""

import re
from pathlib import Path

import lzero

DOCS = Path(lzero.__file__).parents[1] / "docs"


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_domain_recipe_trains(tmp_path, monkeypatch):
    domain, train = python_blocks("add_a_domain.md")
    assert len(domain.splitlines()) <= 34
    (tmp_path / "my_domain.py").write_text(domain, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert '"max_env_steps": 8_000' in train
    exec(train.replace('"max_env_steps": 8_000', '"eval_episodes": 2, "max_env_steps": 160'), {})
    assert (tmp_path / "runs" / "cartpole" / "metrics.jsonl").stat().st_size > 0
    assert list((tmp_path / "runs" / "cartpole" / "checkpoints").glob("step_*"))
