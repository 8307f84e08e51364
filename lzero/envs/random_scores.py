"""What a random policy gets in the games of a run, kept in the run's folder."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

RANDOM_SCORES_FILE = "random_scores.json"


@dataclass(frozen=True)
class RandomScore:
    """Scores of a random policy's episodes in one game."""

    mean: float
    std: float
    """Standard deviation over episodes, 0 of a single one."""
    episodes: int
    cut: int
    """Of these, how many had not ended when the measurement did: they count with what they had got."""


def read_random_scores(
    folder: Path, limits: Mapping[str, int] | None = None
) -> dict[str, RandomScore]:
    """Scores by game that :func:`write_random_scores` has left in ``folder``; what cannot be read is left out, and what was
    measured under another time limit than that of ``limits`` (env steps by game; None for any).
    """
    file = folder / RANDOM_SCORES_FILE
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
        games = written.items()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        logger.warning("%s cannot be read (%s): random scores are measured anew", file, error)
        return {}
    found = {}
    for game, values in games:
        try:
            score = RandomScore(
                float(values["mean"]),
                float(values["std"]),
                int(values["episodes"]),
                int(values["cut"]),
            )
            limit = int(values["max_episode_steps"])
        except (KeyError, TypeError, ValueError, OverflowError):
            logger.warning("%s: of %r no score can be read", file, game)
            continue
        if limits is not None and limits.get(game) != limit:
            continue
        if math.isfinite(score.mean) and 0 <= score.std < math.inf and score.episodes > 0:
            found[game] = score
    return found


def write_random_scores(
    folder: Path, scores: Mapping[str, RandomScore], limits: Mapping[str, int]
) -> None:
    """Keep ``scores`` by game in ``folder``, which is made where it is missing, with the time limits under which they were
    measured; the file is whole or not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".unfinished_{RANDOM_SCORES_FILE}"
    written = {}
    for game, score in scores.items():
        written[game] = asdict(score) | {"max_episode_steps": limits[game]}
    unfinished.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(folder / RANDOM_SCORES_FILE)
