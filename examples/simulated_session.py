"""A whole analysis of a simulated session: fit, compare the conditions, map where the couplings come from."""

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from larscope import LatentVAR, simulate_session

small = "--small" in sys.argv  # as the tests run it
session = simulate_session(n_runs=8, n_frames=80 if small else 192, frame_shape=(48, 32) if small else (96, 64), seed=0)
model = LatentVAR().fit(session, progress=True)
test = model.compare("familiar", "novel")
maps = {condition: model.contribution_map(condition) for condition in session.conditions}

figure, panels = plt.subplots(1, 3, figsize=(10, 4.4), layout="constrained", width_ratios=[1, 1, 1.5])
limit = max(values.max() for values in maps.values())
rows, columns = session.truth.positions.T
driving = session.truth.driving
for axes, (condition, values) in zip(panels, maps.items(), strict=False):
    image = axes.imshow(values, cmap="viridis", vmin=0, vmax=limit)
    axes.plot(columns[driving], rows[driving], "o", color="C3", markersize=12, fillstyle="none", label="drives others")
    axes.plot(columns[~driving], rows[~driving], "x", color="0.75", markersize=4, label="does not")
    axes.set(title=f"Contribution map, {condition}", xlabel="column (pixels)")
panels[0].set_ylabel("row (pixels)")
figure.colorbar(image, ax=panels[:2], label="influence", shrink=0.7)
panels[2].hist(test.permuted, bins=20, color="0.7", label=f"{test.n_labelings} labelings")
panels[2].axvline(test.statistic, color="C3", label=f"observed: p = {test.pvalue:.2f} (at best {test.min_pvalue:.2f})")
panels[2].set(title="Coefficient swap", xlabel="statistic T under permuted labels", ylabel="labelings")
legends = [axes.get_legend_handles_labels() for axes in (panels[0], panels[2])]
handles, labels = ([*cells, *tests] for cells, tests in zip(*legends, strict=True))
figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
panels[2].spines[["top", "right"]].set_visible(False)
figure.suptitle("A simulated session, four runs a condition: circles show the truth")
figure.savefig("simulated_session.png", dpi=150)
