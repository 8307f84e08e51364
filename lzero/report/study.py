"""A study: groups of runs with their curves, final scores and reference scores."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lzero import checks
from lzero.report.curves import all_curves
from lzero.report.notes import study_notes
from lzero.report.progress import shown
from lzero.report.run_data import Group, RunDataError, Task, gather, group_runs, read_runs
from lzero.report.statistics import RANDOM, Curve, FinalScore, final_score
from lzero.report.turns import is_ppo

if TYPE_CHECKING:
    from lzero.envs.domain import Domain
    from lzero.envs.random_scores import RandomScore

Result = TypeVar("Result")
Item = TypeVar("Item")


@dataclass(frozen=True)
class DomainScale:
    """The scale on which a domain makes the scores of its games comparable."""

    name: str
    # Of a random policy, by game; without those that the domain does not know.
    random: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """All that a report tells."""

    groups: tuple[Group, ...]  # experiments, in the order of their first runs
    curves: tuple[Curve, ...]  # of all groups
    finals: tuple[FinalScore, ...]  # of each group and game
    # Raw scores by label, as its domain names them, of every task; empty where there are none.
    references: Mapping[Task, Mapping[str, float]]
    notes: tuple[str, ...]  # what is missing or must be known, one sentence each
    # By domain; without those whose code was not loaded or that have none.
    scales: Mapping[str, DomainScale] = field(default_factory=dict)
    # Largest difference of a cosine that does not matter, stated beforehand; None where none was.
    margin: float | None = None
    # Results by the function that made them, see :func:`once_per_study`.
    computed: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def labels(self) -> list[str]:
        """Of the groups."""
        return [group.label for group in self.groups]

    @property
    def has_ppo(self) -> bool:
        """Whether any group is one of PPO."""
        return any(is_ppo(group.fields) for group in self.groups)

    @property
    def tasks(self) -> list[Task]:
        """Every task, in the order in which the groups name them."""
        return list(self.references)

    def task_title(self, task: Task) -> str:
        """The game, with its domain where another domain has a game of this name."""
        domain, game = task
        is_shared = any(name == game and other != domain for other, name in self.tasks)
        return f"{game} ({domain.partition(':')[2].lower()})" if is_shared else game

    def find_curves(self, metric: str, task: Task | None = None) -> list[Curve]:
        """Curves of one number of all groups, of one task or of none and all."""
        found = []
        for curve in self.curves:
            if curve.metric == metric and task in (None, (curve.domain, curve.game)):
                found.append(curve)
        return found


def once_per_study(make: Callable[[Study], Result]) -> Callable[[Study], Result]:
    """``make``, which computes only when it is first asked about a study.

    Tables, pictures, notes and the headline share a result then, which they must not change.
    """

    @wraps(make)
    def known(study: Study) -> Result:
        if make not in study.computed:
            study.computed[make] = make(study)
        return study.computed[make]

    return known


def rows_once_per_study(
    make: Callable[[Study], Iterable[Item]],
) -> Callable[[Study], tuple[Item, ...]]:
    """:func:`once_per_study` of what comes one by one."""

    @wraps(make)
    def all_of(study: Study) -> tuple[Item, ...]:
        return tuple(make(study))

    return once_per_study(all_of)


def build_study(
    paths: Sequence[Path],
    *,
    labels: Sequence[str] = (),
    ignore: Sequence[str] = (),
    allow_domains: Sequence[str] = (),
    margin: float | None = None,
) -> Study:
    """Read the folders of runs and compute everything that a report shows of them.

    ``labels`` name the groups in the order of their first runs; without any, the runs' names do.
    See :func:`lzero.report.run_data.group_runs` for what to ``ignore``. Of domains outside of this project only those of
    ``allow_domains`` are asked for reference scores, which runs their code. ``margin`` is the largest difference of a cosine
    that does not matter: two groups whose conflict differs by less are called equivalent.

    Raises:
        TypeError: if ``paths`` is a single one, or ``margin`` is no number.
        RunDataError: if there is no run, one cannot be read, the labels do not fit, or ``margin`` is not above 0 and at
            most 1.
    """
    if margin is not None:
        try:  # cosines that differ by more than 1 do not agree in any sense
            margin = checks.number("margin", margin, 0, 1, above=True)
        except ValueError as error:
            raise RunDataError(f"{error}; it is a difference of cosines, such as 0.05") from error
    if not paths:
        raise RunDataError("no run named; type python -m lzero.report runs/NAME [runs/NAME …]")
    groups = _relabel(group_runs(read_runs(paths), ignore), labels)
    references, lacking = reference_scores(groups, allow_domains)
    curves = tuple(chain.from_iterable(map(all_curves, shown(groups, "curves"))))
    finals: list[FinalScore] = []
    for group in groups:
        finals += map(partial(final_score, group), group.games)
    notes = (*study_notes(groups, finals), *lacking)
    scales = domain_scales(references, allow_domains, groups)
    return Study(groups, curves, tuple(finals), references, notes, scales, margin)


def domain_scales(
    references: Mapping[Task, Mapping[str, float]],
    allow_domains: Sequence[str] = (),
    groups: Sequence[Group] = (),
) -> dict[str, DomainScale]:
    """The scales of the tasks' domains, as far as :func:`reference_scores` may load them; of domains that know no random
    scores, with those that runs of ``groups`` have measured.
    """
    found = {}
    for path, games in gather(references).items():
        try:
            domain = _domain_of(path, groups, allow_domains)
        except ValueError:
            continue  # reference_scores has said why
        if not hasattr(domain, "normalised_score"):
            continue
        random = {}
        for game in games:
            if RANDOM in references[path, game]:
                score = domain.normalised_score(game, references[path, game][RANDOM])
                if score is not None:
                    random[game] = float(score)
        found[path] = DomainScale(getattr(domain, "score_scale", "normalised"), random)
    return found


def reference_scores(
    groups: Sequence[Group], allow_domains: Sequence[str] = ()
) -> tuple[dict[Task, Mapping[str, float]], list[str]]:
    """Reference scores of tasks as their domains give them, and what is said where they do not.

    A domain that is neither of this project nor among ``allow_domains`` is not loaded: reading a run runs nothing of it.
    """
    found: dict[Task, Mapping[str, float]] = {}
    for group in groups:
        found |= dict.fromkeys(group.tasks, {})
    notes = []
    for path, games in gather(found).items():
        reason = f"{path} names no reference scores"
        try:
            domain = _domain_of(path, groups, allow_domains)
        except ValueError as error:
            reason = str(error)
        else:
            if hasattr(domain, "reference_scores"):
                for game in games:
                    found[path, game] = dict(domain.reference_scores(game))
            else:
                reason = f"{path} has no reference_scores(game)"
        bare = ", ".join(game for game in games if not found[path, game])
        if bare:
            notes.append(f"no reference lines of {bare}: {reason}")
    return found, notes


def _domain_of(path: str, groups: Sequence[Group], allow_domains: Sequence[str]) -> "Domain":
    """The domain at ``path``, with the random scores that its runs have measured where it knows none.

    Raises:
        ValueError: if it is not trusted, or cannot be loaded.
    """
    # gymnasium comes with it, which nothing else here needs
    from lzero.envs.domain import MeasuredDomain, check_trusted, load_domain
    from lzero.envs.random_scores import read_random_scores

    check_trusted(path, allow_domains)
    domain = load_domain(path)
    if not isinstance(domain, MeasuredDomain):
        return domain
    random: dict[str, RandomScore] = {}
    for group in groups:
        for run in group.runs if group.domain == path else ():
            random = read_random_scores(run.path) | random  # of two runs the first one's
    return domain.with_random_scores(random)


def _relabel(groups: tuple[Group, ...], labels: Sequence[str]) -> tuple[Group, ...]:
    if not labels:
        return groups
    if len(labels) != len(groups) or len(set(labels)) < len(labels):
        made = ", ".join(f"{group.label!r} ({len(group.runs)} run(s))" for group in groups)
        problem = "one each, all different, is needed for the groups"
        raise RunDataError(f"labels={list(labels)}: {problem} {made}")
    return tuple(replace(group, label=label) for group, label in zip(groups, labels, strict=True))
