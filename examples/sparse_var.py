"""Who drives whom in a multivariate series: least squares and a sparse VAR, beside the truth."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from larscope import SparseVAR

K, order, n_frames = 20, 2, 300
rng = np.random.default_rng(0)
truth = np.zeros((order, K, K))
truth[0] = 0.5 * np.eye(K)  # every series remembers itself, and 15 couplings link them
couplings = rng.choice(order * K * K, 15, replace=False)
truth.flat[couplings] += rng.choice([-0.4, 0.4], 15)
z = np.zeros((2 * n_frames, K))
for t in range(order, len(z)):
    z[t] = sum(truth[k] @ z[t - 1 - k] for k in range(order)) + rng.normal(size=K)
past, future = torch.tensor(z[:n_frames]), torch.tensor(z[n_frames:])

figure, panels = plt.subplots(2, 3, figsize=(9, 6.2), layout="constrained", sharex=True, sharey=True)
fits = {
    "least squares": SparseVAR(order, penalty=1e-8, penalty_scale="target")(past),
    "sparse VAR": SparseVAR(order, penalty=0.08, penalty_scale="target")(past),
}
columns = {"truth": (truth, int((truth != 0).sum()), "")}
for name, fit in fits.items():
    error = (future[order:] - fit.predict(future)).square().mean() / future[order:].var()
    columns[name] = (fit.coef.numpy(), int(fit.n_active), f"\nunseen frames: error {error:.2f} of the variance")
for column, (name, (coef, n_active, note)) in zip(panels.T, columns.items(), strict=True):
    for lag, axes in enumerate(column):
        image = axes.imshow(coef[lag], cmap="RdBu_r", vmin=-0.6, vmax=0.6)
    column[0].set_title(f"{name}: {n_active} of {truth.size} coefficients{note}", fontsize="small")
    column[1].set_xlabel("source series")
for lag, axes in enumerate(panels[:, 0]):
    axes.set(ylabel=f"lag {lag + 1}: target series", xticks=range(0, K, 5), yticks=range(0, K, 5))
figure.colorbar(image, ax=panels, label="coefficient", shrink=0.6)
figure.suptitle(f"Sparse vector autoregression, {K} simulated series, {n_frames} frames")
figure.savefig("sparse_var.png", dpi=150)
