"""Names of measuring points, and the mean over routed experts."""

from pathlib import Path

import numpy as np
import pytest

from lzero.report.components import Component, components, routed_series
from lzero.report.run_data import RunData, Series
from tests.report.synthetic_runs import component_names


def run_of(**scalars: list[tuple[float, float]]) -> RunData:
    """A run whose tags are ``gradient_conflict/max_{name}``, with ``__`` for the slash."""
    series = {
        f"gradient_conflict/max_{name.replace('__', '/')}": Series(
            *np.array(points, dtype=np.float64).T
        )
        for name, points in scalars.items()
    }
    return RunData(Path("run"), {}, series, {})


def test_every_name_is_read_and_written_back():
    names = [
        *component_names(layers=12, experts=11),
        "my_own_point",
        "my_own_point/layer3",
        "expert_stuff",
        "a/b",
    ]
    for name in names:
        assert Component.parse(name).name == name
    assert Component.parse("expert_10/layer3") == Component("expert", 3, 10)
    assert Component.parse("expert_0/layer0") == Component("expert", 0, 0), "0 is a number too"
    assert Component.parse("shared_expert/layer1") == Component("shared_expert", 1)
    assert Component.parse("expert_2") == Component("expert", None, 2)
    with pytest.raises(ValueError, match="empty"):
        Component.parse("")


def test_components_come_from_the_encoder_to_the_router():
    layers = [f"moe_layer/layer{layer}" for layer in range(12)]
    names = [
        "encoder",
        "transformer",
        "before_moe/layer0",
        *layers,
        "router/layer0",
        "zzz",
        "zzz/layer1",
    ]
    run = run_of(**{name.replace("/", "__"): [(1.0, np.nan)] for name in reversed(names)})
    assert [component.name for component in components([run], "max")] == names
    assert components([run], "avg") == []


def test_the_mean_over_experts_is_over_those_that_had_a_number():
    run = run_of(
        expert_0__layer0=[(10, 1.0), (20, 2.0), (30, np.nan)],
        expert_1__layer0=[(10, 3.0), (20, np.nan), (30, 7.0)],
        expert_2__layer0=[(10, np.nan), (20, np.nan), (30, np.nan)],
        expert_0__layer1=[(10, 99.0)],
    )
    experts = [Component("expert", 0, number) for number in range(3)]
    series = routed_series(run, "max", experts)
    assert series.env_step.tolist() == [10, 20, 30] and series.value.tolist() == [2.0, 2.0, 7.0]
    assert len(routed_series(run, "max", experts[2:])) == 0
