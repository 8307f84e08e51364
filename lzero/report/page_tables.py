"""Tables of the page: comparisons over games, continual learning and analysed experts."""

from collections.abc import Sequence

from lzero.report import comparison, continual, expert_files
from lzero.report.blocks import Table
from lzero.report.headline import FILE, headline_rows
from lzero.report.paired import paired_rows
from lzero.report.run_data import gather
from lzero.report.statistics import LEVEL
from lzero.report.study import Study
from lzero.report.tables import difference_label, interval, number


def headline_table(study: Study) -> list[Table]:
    """Every pair of experiments that share games; none without any."""
    lines = []
    for row in headline_rows(study):
        ends = interval(row["low"], row["high"])
        bootstrap = interval(row["bootstrap_low"], row["bootstrap_high"])
        chances = interval(row["probability_low"], row["probability_high"])
        lines.append(
            (
                difference_label(row["first"], row["second"]),
                *(row["games"], row["scale"], row["verdict"]),
                *(number(row["first_iqm"]), number(row["second_iqm"])),
                *(number(row["difference"]), ends, number(row["p_holm"]), bootstrap),
                f"{number(row['probability'])} ({chances})",
                f"{row['num_first']} and {row['num_second']}",
            )
        )
    head = (
        *("A − B", "games", "scale", "verdict", "IQM of A", "IQM of B", "difference"),
        *(f"{LEVEL} interval", "p (Holm)", "bootstrap", "A better than B", "seeds"),
    )
    caption = (
        "Final scores: IQM (mean of the middle half) over the games of each run, then over seeds. "
        "The verdict is Student's: over the differences of each seed where both have the same "
        "seeds, else Welch's; from three seeds on. Ahead: the interval excludes 0, also after "
        "Holm's adjustment for as many pairs as there are. Beside it the stratified bootstrap of the "
        "pooled IQM, too narrow with few seeds, and how likely a run of A is better than one of B "
        f"on a game, with its bootstrap interval. More in {FILE}."
    )
    return [Table(head, lines, texts=4, caption=caption)] if lines else []


def comparison_tables(study: Study) -> list[Table]:
    """Aggregates, probability of improvement and differences seed by seed; none without any."""
    found: list[Table] = []
    rows = list(comparison.aggregate_rows(study))
    if rows:
        cells: dict[str, list[str]] = {}
        for row in rows:
            where = [row["group"], row["games"], row["scale"], str(row["num_seeds"])]
            cells.setdefault(row["group"], where).append(
                f"{number(row['value'])} ({interval(row['low'], row['high'])})"
            )
        most = max(map(len, cells.values()))
        lines_of = [(*line, *["–"] * (most - len(line))) for line in cells.values()]
        names = dict.fromkeys(comparison.TITLES[row["aggregate"]] for row in rows)
        caption = (
            f"Final scores over games and seeds ({LEVEL} stratified bootstrap interval; none of one "
            "seed). Those of whole runs are in aggregate.csv."
        )
        found.append(
            Table(
                ("experiment", "games", "scale", "seeds", *names),
                lines_of,
                texts=3,
                caption=caption,
            )
        )
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
        found.append(Table(head, lines, texts=2, caption=caption))
    lines = []
    for row in paired_rows(study):
        if not row["game"]:
            names_of = (row["first"], row["second"], row["score"])
            ends = interval(row["low"], row["high"])
            student = interval(row["t_low"], row["t_high"])
            cells_of = (number(row["difference"]), ends, student, str(row["num_seeds"]))
            lines.append((*names_of, *cells_of))
    if lines:
        head = ("A", "B", "score", "A − B", "interval", "Student's", "seeds")
        caption = "Differences seed by seed. Single games are in paired.csv."
        found.append(Table(head, lines, texts=3, caption=caption))
    return found


def continual_table(study: Study) -> list[Table]:
    """Forgetting and transfer, a line for each experiment and game; none without continual runs."""
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
        return []
    head = ("experiment", "game", "score", *continual.MEASURES.values())
    caption = (
        f"Mean over seeds ({LEVEL} bootstrap interval over seeds), of the last evaluation of each "
        "turn. More in continual.csv."
    )
    return [Table(head, lines, texts=3, caption=caption)]


def expert_analysis_tables(study: Study) -> list[Table]:
    """What is known of the experts of analysed checkpoints; none without any."""
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
        return []
    head: tuple[str, ...] = ("experiment", "seed", "layer", "mutual information")
    head += ("by chance", "95th percentile", "p")
    caption = (
        "What an expert tells of the game it is used by, in nats, in windows of a checkpoint's "
        "replay; by chance: with the games permuted among the windows. More in expert_analysis.csv."
    )
    found = [Table(head, information, texts=3, caption=caption)]
    lines: list[Sequence[str]] = []
    for place, cells_of in gather(effective).items():
        of_layer = dict(cells_of)
        lines.append((*place, *(of_layer.get(layer, "–") for layer in layers)))
    caption = (
        "Effective number of experts of each game: the exponential of its selection's entropy."
    )
    found.append(Table(("experiment", "seed", "game", *layers), lines, texts=3, caption=caption))
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
        found.append(Table(head, lines, texts=4, caption=caption))
    return found
