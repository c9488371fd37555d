"""Learn a linear encoder whose codes are sparse combinations of known atoms, through the lasso.

python examples/lasso_layer.py
"""

import torch

from larscope import lasso

torch.manual_seed(0)
atoms = torch.randn(20, 40, dtype=torch.float64)
truth = torch.randn(20, 20, dtype=torch.float64) / 20**0.5
codes = torch.randn(40, 200, dtype=torch.float64) * (torch.rand(40, 200) < 0.05)
signals = torch.linalg.solve(truth, atoms @ codes)

encoder = torch.eye(20, dtype=torch.float64, requires_grad=True)
optimizer = torch.optim.Adam([encoder], lr=0.02)
for step in range(101):
    targets = encoder @ signals
    coef = lasso(atoms, targets, alpha=0.05)
    unexplained = (targets - atoms @ coef).square().sum() / targets.square().sum()
    loss = unexplained + 0.01 * coef.abs().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        active = (coef != 0).sum(0).double().mean()
        print(f"step {step:3d}  unexplained {unexplained:.4f}  active per signal {active:.1f}")
