"""Low-rank decomposition: one layer as two or three thinner ones, and the ranks that are worth it."""

from zoo.lowrank.decomposing import decompose
from zoo.lowrank.forms import schemes_for
from zoo.lowrank.ranks import WANTED, RankChoices, Selection, Wanted
from zoo.lowrank.responses import FITTING_INPUTS, refine

__all__ = ["FITTING_INPUTS", "WANTED", "RankChoices", "Selection", "Wanted", "decompose", "refine", "schemes_for"]
