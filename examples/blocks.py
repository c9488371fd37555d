"""Why blocks matter: 200 simulated sessions without any difference, tested with and without naming the blocks."""

import warnings

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from larscope import influence_test

warnings.simplefilter("ignore")  # each test says what limits it; here their p-values are counted

rng = np.random.default_rng(0)
condition = np.repeat(["familiar", "novel"], 20)
block = np.repeat([f"day {day}" for day in range(10)], 4)  # five days a condition, four runs a day
pvalues = {"runs trade labels": [], "days trade labels": []}
for _ in range(200):
    drift = np.repeat(rng.normal(size=(10, 1, 4, 4)), 4, axis=0)  # every day has its own dynamics
    coefs = 0.3 + 0.1 * drift + 0.1 * rng.normal(size=(40, 1, 4, 4))  # no condition has
    pvalues["runs trade labels"].append(influence_test(coefs, condition, n_permutations=99).pvalue)
    pvalues["days trade labels"].append(influence_test(coefs, condition, block, n_permutations=99).pvalue)

figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharey=True)
for axes, (who, found), how in zip(panels, pvalues.items(), ("block left out", "block named"), strict=True):
    axes.hist(found, bins=np.linspace(0.005, 1.005, 21), color="C0")
    axes.axhline(200 / 20, color="C3", linestyle="--", label="a test that keeps its promise")
    wrong = np.mean(np.array(found) <= 0.05)
    axes.set(title=f"{how}: {who}\n{wrong:.0%} of p-values at most 0.05", xlabel="p-value")
    axes.spines[["top", "right"]].set_visible(False)
panels[0].set_ylabel("sessions of 200")
panels[0].legend(frameon=False)
figure.suptitle("Days that drift, conditions that do not differ (simulated data)")
figure.savefig("blocks.png", dpi=150)
