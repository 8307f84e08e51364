"""Tables of the page: how one is written, and those of comparisons, continual learning and analysed experts."""

from collections.abc import Iterable, Sequence
from html import escape

from lzero.report import comparison, continual, expert_files
from lzero.report.paired import paired_rows
from lzero.report.run_data import gather
from lzero.report.statistics import LEVEL
from lzero.report.study import Study
from lzero.report.tables import interval, number


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1, caption: str = ""
) -> str:
    """A table of escaped cells; the first ``texts`` columns hold words, the others numbers."""
    body = "".join(f"<tr>{_cells('td', row, texts)}</tr>" for row in rows)
    note = f"<caption>{escape(caption)}</caption>" if caption else ""
    names = f"<thead><tr>{_cells('th', head, texts)}</tr></thead>"
    return f'<div class="table"><table>{note}{names}<tbody>{body}</tbody></table></div>'


def _cells(tag: str, texts: Sequence[str], words: int) -> str:
    cells = ""
    for column, text in enumerate(texts):
        kind = ' class="text"' if column < words else ""
        cells += f"<{tag}{kind}>{escape(text)}</{tag}>"
    return cells


def comparison_tables(study: Study) -> str:
    """Aggregates, probability of improvement and differences seed by seed; empty without any."""
    html = ""
    rows = list(comparison.aggregate_rows(study))
    if rows:
        cells: dict[str, list[str]] = {}
        for row in rows:
            cells.setdefault(row["group"], [row["group"]]).append(
                f"{number(row['value'])} ({interval(row['low'], row['high'])})"
            )
        names = dict.fromkeys(comparison.TITLES[row["aggregate"]] for row in rows)
        caption = (
            f"Final scores over {rows[0]['num_games']} game(s), scale: {rows[0]['scale']} ({LEVEL} "
            "stratified bootstrap interval). Those of whole runs are in aggregate.csv."
        )
        html += table(("experiment", *names), cells.values(), caption=caption)
    lines: list[Sequence[str]] = []
    for row in comparison.improvement_rows(study):
        if not row["game"]:
            ends = interval(row["low"], row["high"])
            whole = interval(row["low_whole_runs"], row["high_whole_runs"])
            lines.append((row["first"], row["second"], number(row["probability"]), ends, whole))
    if lines:
        head: tuple[str, ...] = (
            "better",
            "than",
            "probability",
            "interval",
            "interval of whole runs",
        )
        caption = (
            "How likely a run of one experiment is better than one of another on a game, mean over "
            "games; 0.5 is no difference. Single games are in improvement.csv."
        )
        html += table(head, lines, texts=2, caption=caption)
    lines = []
    for row in paired_rows(study):
        if not row["game"]:
            names_of = (row["first"], row["second"], row["score"])
            ends = interval(row["low"], row["high"])
            student = interval(row["t_low"], row["t_high"])
            cells_of = (number(row["difference"]), ends, student, str(row["num_seeds"]))
            lines.append((*names_of, *cells_of))
    if lines:
        head = ("experiment", "minus", "score", "difference", "interval", "Student's", "seeds")
        caption = "Differences seed by seed. Single games are in paired.csv."
        html += table(head, lines, texts=3, caption=caption)
    return html


def continual_table(study: Study) -> str:
    """Forgetting and transfer, a line for each experiment and game; empty without continual runs."""
    found = []
    for row in continual.continual_rows(study):
        cell = f"{number(row['mean'])} ({interval(row['low'], row['high'])})"
        place = (row["group"], row["game"] or "mean over games", row["score"])
        found.append((place, (row["measure"], cell)))
    lines = []
    for place, cells in gather(found).items():
        of_measure = dict(cells)
        lines.append((*place, *(of_measure.get(name, "–") for name in continual.MEASURES)))
    if not lines:
        return ""
    head = ("experiment", "game", "score", *continual.MEASURES.values())
    caption = (
        f"Mean over seeds ({LEVEL} bootstrap interval over seeds), of the last evaluation of each "
        "turn. More in continual.csv."
    )
    return table(head, lines, texts=3, caption=caption)


def expert_analysis_tables(study: Study) -> str:
    """What is known of the experts of analysed checkpoints; empty without any."""
    information: list[Sequence[str]] = []
    effective = []
    layers: dict[str, None] = {}
    for row in expert_files.analysis_rows(study):
        names = (row["group"], row["seed"])
        if row["quantity"] == expert_files.INFORMATION:
            cells = map(number, (row["value"], row["null_mean"], row["null_high"], row["p_value"]))
            information.append((*names, str(row["layer"]), *cells))
        elif row["quantity"] == expert_files.EFFECTIVE:
            layer = f"layer {row['layer']}"
            layers[layer] = None
            effective.append(((*names, row["game"]), (layer, number(row["value"]))))
    if not information:
        return ""
    head: tuple[str, ...] = ("experiment", "seed", "layer", "mutual information")
    head += ("by chance", "95th percentile", "p")
    caption = (
        "What an expert tells of the game it is used by, in nats, in windows of a checkpoint's "
        "replay; by chance: with the games permuted among the windows. More in expert_analysis.csv."
    )
    html = table(head, information, texts=3, caption=caption)
    lines: list[Sequence[str]] = []
    for place, cells_of in gather(effective).items():
        of_layer = dict(cells_of)
        lines.append((*place, *(of_layer.get(layer, "–") for layer in layers)))
    caption = (
        "Effective number of experts of each game: the exponential of its selection's entropy."
    )
    html += table(("experiment", "seed", "game", *layers), lines, texts=3, caption=caption)
    lines = []
    for row in expert_files.matching_rows(study):
        numbers = (row["similarity"], row["null_mean"], row["null_high"], row["p_value"])
        pair = (row["group"], row["first"], row["second"], str(row["layer"]))
        lines.append((*pair, *map(number, numbers)))
    if lines:
        head = ("experiment", "seed", "and", "layer", "similarity")
        head += ("by chance", "95th percentile", "p")
        caption = (
            "Do seeds send the same games to common experts? Share of selections that agree once "
            "experts are paired as well as can be (Hungarian method); by chance: with the second "
            "seed's games named anew. With fewer than four games nothing can be told."
        )
        html += table(head, lines, texts=4, caption=caption)
    return html
