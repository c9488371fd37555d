r"""Compare conditions: are their dynamics different, and by how much.

Section 2.3 of arXiv 2603.02899, on arrays: latent series and their VAR coefficients, one of each a run.

Both tests start from a number for every pair of runs (`swap_deltas`, `influence_distances`), large where two
runs differ, and ask whether pairs *between* conditions (inter) differ more than pairs *within* one (intra):

.. math:: T = mean(inter) - mean(intra)

where mean(intra) is the average of the conditions' own means, each condition counting alike. For squared
distances T then estimates the squared distance between the conditions' centres whatever their spreads; pooling
all pairs, the larger condition would dominate, and with unequal spreads T would not be zero without a
difference (Anderson et al. 2017).

Pairs are of runs that only chance and condition can set apart: `larscope.permutation.comparable_pairs`.

Pairs that share a run are not independent, so T is compared with its values under permuted condition labels
(`larscope.permutation`). The paper's rank-sum test over pairs, which treats them as independent, is
reported beside it.
"""

from larscope.comparison.contrasts import Contrast, contrast_table, correct_contrasts
from larscope.comparison.influence import influence_distances, influence_test
from larscope.comparison.outcome import Comparison, ComparisonWarning, compare_pairs
from larscope.comparison.pairs import PairDistances
from larscope.comparison.pitfalls import condition_imbalances
from larscope.comparison.swap import coefficient_swap_test, equally_long, swap_deltas, swap_errors

__all__ = [
    "Comparison",
    "ComparisonWarning",
    "Contrast",
    "PairDistances",
    "coefficient_swap_test",
    "compare_pairs",
    "condition_imbalances",
    "contrast_table",
    "correct_contrasts",
    "equally_long",
    "influence_distances",
    "influence_test",
    "swap_deltas",
    "swap_errors",
]
