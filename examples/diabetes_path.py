"""Draw the lasso path of the diabetes data (Efron et al., 2004, figure 1).

python examples/diabetes_path.py diabetes_path.png
"""

import sys

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
for name, coef in zip(data.feature_names, path.coefs, strict=True):
    axes.plot(size, coef, label=name)
for knot in size:
    axes.axvline(knot, color="0.9", zorder=0)
axes.set(xlabel="sum of |coefficients|", ylabel="coefficient", title="Lasso path of the diabetes data")
axes.legend(ncols=2, fontsize="small")
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "diabetes_path.png", dpi=150)
