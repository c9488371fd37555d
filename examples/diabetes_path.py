"""The lasso path of the diabetes data (Efron et al., 2004, figure 1): every coefficient at every penalty, exactly."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_diabetes

from larscope import lasso_path

data = load_diabetes()
path = lasso_path(torch.tensor(data.data), torch.tensor(data.target - data.target.mean()))

figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
size = path.coefs.abs().sum(0)
for knot in size:
    axes.axvline(knot, color="0.92", zorder=0)
height = -torch.inf
for feature in path.coefs[:, -1].argsort():
    (line,) = axes.plot(size, path.coefs[feature])
    height = max(path.coefs[feature, -1], height + 50)  # no name on another
    axes.text(size[-1] + 30, height, data.feature_names[feature], va="center", color=line.get_color())
axes.set(
    xlabel="sum of |coefficients|, one step of the path at each grey line",
    ylabel="coefficient, of features of unit length",
    title="Lasso path of the diabetes data (442 patients, 10 features)",
)
axes.spines[["top", "right"]].set_visible(False)
figure.savefig("diabetes_path.png", dpi=150)
