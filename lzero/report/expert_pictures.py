"""Pictures of analyses of checkpoints' experts."""

from dataclasses import dataclass

import numpy as np

from lzero.analysis.expert_analysis import ANALYSIS_FILE
from lzero.report import expert_files, matrices
from lzero.report.pictures import Drawn, Picture, Section
from lzero.report.ppo_pictures import ForestPicture
from lzero.report.run_data import ANALYSE
from lzero.report.study import Study

LACKING = f"no run has {ANALYSIS_FILE}; type {ANALYSE} RUN"


@dataclass(frozen=True)
class AblationPicture(Picture):
    """Change of the loss without each expert; colours reach as far as the largest change by a single expert."""

    def draw(self, study: Study) -> Drawn | None:
        """None if no run was analysed."""
        blocks = expert_files.ablation_blocks(study)
        largest, shown = 0.0, {}
        for block in blocks:
            for matrix in block.matrices:
                shown[matrix.group] = f"{matrix.group}: {', '.join(matrix.seeds)}"
                for name, column in zip(matrix.columns, matrix.values.T, strict=True):
                    if name not in (expert_files.ALL, expert_files.SHARED_TITLE):
                        largest = max(largest, float(np.nan_to_num(np.abs(column)).max()))
        if not blocks:
            return None
        limits = (-largest, largest) if largest > 0 else (-1.0, 1.0)
        png = matrices.draw_blocks(blocks, limits, "RdBu_r", "part that is off")
        return Drawn(png, f"{self.reading} Shown: {'; '.join(shown.values())}.")


EXPERT_PICTURES: tuple[Picture, ...] = (
    ForestPicture(
        *("expert_information_null", Section.EXPERTS),
        "What an expert tells of its game, against a router that cannot know it",
        expert_files.information_estimates,
        "Dot: mutual information of game and expert in windows of the replay, games weighted "
        "equally, a line for each seed. Bar: where 90 % of the values lie when the games are "
        "permuted among the windows.",
        expected=expert_files.can_be_analysed,
        lacking=LACKING,
        reading="A dot in its bar is what a router that cannot know the game gives too. Tokens of "
        "a window depend on each other, so windows are permuted whole. expert_analysis.csv has the "
        "p-values, and each game's entropy.",
    ),
    AblationPicture(
        *("expert_ablation", Section.EXPERTS, "What each game loses without an expert"),
        expected=expert_files.can_be_analysed,
        lacking=LACKING,
        reading="Change of the total loss on the same windows when one routed expert, all of them, "
        "or the shared one contributes nothing; the router chooses as before. Red: the part is of "
        "use. Colours end at the largest change by a single expert. Of one seed of each experiment: "
        "experts have no order that seeds share. Intervals and single terms are in "
        "expert_analysis.csv.",
    ),
)
"""In the order of the page."""
