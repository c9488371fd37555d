"""Which penalty? AIC, BIC and cross-validation along one exact path, and what each of them keeps."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from larscope import lasso_path
from larscope.lasso.sklearn import MultiTargetLasso

rng = np.random.default_rng(3)
X = rng.normal(size=(150, 40))
truth = np.zeros(40)
truth[:6] = [1.0, -0.8, 0.6, -0.5, 0.4, -0.3]
y = X @ truth + rng.normal(size=150)

path = lasso_path(torch.tensor(X - X.mean(0)), torch.tensor(y - y.mean()))
figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
for feature, coef in enumerate(path.coefs[:, path.alphas > 1e-3]):
    colour, width = ("C0", 1.5) if truth[feature] else ("0.8", 0.8)
    axes.plot(path.alphas[path.alphas > 1e-3], coef, color=colour, linewidth=width, zorder=1 + bool(truth[feature]))
axes.plot([], [], color="C0", label="the 6 that count")
axes.plot([], [], color="0.8", label="the 34 that do not")
for criterion, style in (("aic", ":"), ("bic", "-"), ("cv", "--")):
    model = MultiTargetLasso(alpha=criterion).fit(X, y)
    right, wrong = (model.coef_[:6] != 0).sum(), (model.coef_[6:] != 0).sum()
    label = f"{criterion.upper()}: keeps {right} of the 6, {wrong} of the 34"
    axes.axvline(model.alpha_, color="C3", linestyle=style, label=label)
axes.set(
    xscale="log",
    xlabel="penalty alpha",
    ylabel="coefficient",
    title="Three ways to choose the penalty (simulated data, 150 samples)",
)
axes.invert_xaxis()
figure.legend(frameon=False, loc="outside right center")
axes.spines[["top", "right"]].set_visible(False)
figure.savefig("choose_alpha.png", dpi=150)
