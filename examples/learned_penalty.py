"""The penalty of a lasso, learned by gradient descent through the fit: 60 samples to fit, 60 to judge."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from larscope import alpha_max, lasso, lasso_path

torch.manual_seed(0)
X, truth = torch.randn(120, 100, dtype=torch.float64), torch.zeros(100, dtype=torch.float64)
truth[:8] = torch.linspace(1, 0.3, 8)
y = X @ truth + 0.7 * torch.randn(120, dtype=torch.float64)
X_fit, y_fit, X_judge, y_judge = X[:60], y[:60], X[60:], y[60:]


def error(coef):
    return (y_judge - X_judge @ coef).square().mean()


log_alpha = (0.9 * alpha_max(X_fit, y_fit)).log().requires_grad_()
optimizer = torch.optim.Adam([log_alpha], lr=0.1)
steps = []
for _ in range(60):
    loss = error(lasso(X_fit, y_fit, log_alpha.exp()))
    steps.append((log_alpha.exp().item(), loss.item()))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

path = lasso_path(X_fit, y_fit)
grid = torch.logspace(-2.2, 0, 400, dtype=torch.float64) * path.alphas[0]
figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
axes.plot(grid, [error(path(alpha)) for alpha in grid], color="0.6", label="along the exact path")
axes.plot(*zip(*steps, strict=True), "o-", color="C1", markersize=4, linewidth=0.8, label="60 gradient steps")
axes.plot(*steps[-1], "*", color="C3", markersize=16, label=f"learned: alpha = {steps[-1][0]:.3f}")
axes.set(
    xscale="log",
    xlabel="penalty alpha",
    ylabel="mean squared error on the judging samples",
    title="A penalty learned through the lasso (simulated data)",
)
axes.legend(frameon=False)
axes.spines[["top", "right"]].set_visible(False)
figure.savefig("learned_penalty.png", dpi=150)
