"""Tables for a terminal of what an analysis of experts came to."""

import numpy as np
from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lzero.analysis.expert_analysis import TOTAL, Ablation, ExpertAnalysis


def analysis_tables(analysis: ExpertAnalysis) -> Group:
    """All tables, one below the other."""
    return Group(information_table(analysis), effective_table(analysis), ablation_table(analysis))


def information_table(analysis: ExpertAnalysis) -> Table:
    """A line for each layer: what a selection tells of its game, and what it tells by chance."""
    table = _table(
        "what an expert tells of its game",
        "Mutual information in nats; by chance: of windows with their games permuted, mean and 95th percentile. Share: of the "
        "most that it can be.",
    )
    for name in ("layer", "information", "by chance", "95th percentile", "p", "share"):
        table.add_column(name, justify="right")
    for number, layer in analysis.layers.items():
        test = layer.information
        chance = (test.observed, test.mean, test.quantiles[-1], test.p_value)
        table.add_row(
            str(number),
            *(_number(float(value)) for value in chance),
            _number(layer.share_of_largest),
        )
    return table


def effective_table(analysis: ExpertAnalysis) -> Table:
    """Effective number of experts of each game, a column for each layer."""
    table = _table(
        "effective number of experts",
        "How many experts, used alike, would have the entropy of a game's selections.",
    )
    table.add_column("game", overflow="fold")
    columns = []
    for number, layer in analysis.layers.items():
        table.add_column(f"layer {number}", justify="right")
        columns.append(layer.effective_experts.tolist())
    for game, *numbers in zip(analysis.games, *columns, strict=True):
        table.add_row(game, *map(_number, numbers))
    return table


def ablation_table(analysis: ExpertAnalysis) -> Table:
    """A line for each part that was off: change of the total loss, over games and where it is largest."""
    table = _table(
        "change of the total loss when a part is off",
        "Above 0 the part is of use. Mean over games, and of the game that needs it most, with the 95 % interval over windows "
        "(the largest of many is on average too large). "
        "Selections: share that goes to the part, mean over games.",
    )
    table.add_column("off", no_wrap=True)
    table.add_column("selections", justify="right")
    table.add_column("loss", justify="right")
    table.add_column("most for", overflow="fold")
    table.add_column("loss there", justify="right")
    if analysis.returns is not None:
        table.add_column("return", justify="right")
    layer = None
    for ablation in analysis.ablations:
        if ablation.layer != layer:
            layer = ablation.layer
            table.add_section()
            table.add_row(Text(f"layer {layer}", style="bold"))
        table.add_row(*_cells(analysis, ablation))
    return table


def _table(title: str, caption: str) -> Table:
    return Table(
        title=title, caption=caption, box=SIMPLE, title_justify="left", caption_justify="left"
    )


def _cells(analysis: ExpertAnalysis, ablation: Ablation) -> list[str]:
    value, low, high = ablation.loss[:, analysis.terms.index(TOTAL)]
    most = int(value.argmax())
    cells = [
        ablation.part,
        _number(analysis.share_of_selections(ablation.layer, ablation.part)),
        _number(float(value.mean())),
        analysis.games[most],
        f"{_number(value[most])} ({_number(low[most])} … {_number(high[most])})",
    ]
    if ablation.returns is not None:
        cells.append(_number(float(ablation.returns[0].mean())))
    return cells


def _number(value: float) -> str:
    """Three digits; a dash for what is not known."""
    return "–" if np.isnan(value) else f"{value:.3g}"
