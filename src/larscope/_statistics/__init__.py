r"""Compare conditions: are their dynamics different, and by how much.

Section 2.3 of arXiv 2603.02899, on arrays: latent series and their VAR coefficients, one of each a run.

Both tests start from a number for every pair of runs (`swap_deltas`, `influence_distances`), large where two
runs differ, and ask whether pairs *between* conditions (inter) differ more than pairs *within* one (intra):

.. math:: T = mean(inter) - mean(intra)

where mean(intra) is the average of the conditions' own means, each condition counting alike. For squared
distances T then estimates the squared distance between the conditions' centres whatever their spreads; pooling
all pairs, the larger condition would dominate, and with unequal spreads T would not be zero without a
difference (Anderson et al. 2017).

Pairs are of runs that only chance and condition can set apart: `larscope._statistics.permutation.comparable_pairs`.
Where runs trade labels within blocks or subjects, each block's centre is first moved to the same place
(`larscope._statistics.pairs.pairs_to_test`): then pairs across blocks count too, and T has the power of a PERMANOVA
with the blocks as a term.

Pairs that share a run are not independent, so T is compared with its values under permuted condition labels
(`larscope._statistics.permutation`). The paper's rank-sum test over pairs, which treats them as independent, is
reported beside it.
"""
