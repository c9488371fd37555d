"""Tables of the command line."""

import math
import warnings
from typing import Any

from rich.box import SIMPLE, SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from larscope._cli.terminal import console, print_plain, printable

SCORE_HEADERS = {
    "run": "run",
    "condition": "condition",
    "forecast_error": "forecast\nerror",
    "var_explained": "VAR ex-\nplained",
    "var_error_heldout": "held-out\nerror",
    "own_error_heldout": "own past\nalone",
    "n_active": "active\ncoef.",
    "n_couplings": "coup-\nlings",
    "n_chance": "by\nchance",
}


def score_table(dataset: Any, title: str) -> Table:
    """Show the scores of each run of a result."""
    table = Table(title=f"{title}: each run", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    # results of before version 6 have no couplings counted
    names = [name for name in SCORE_HEADERS if name in dataset and (name != "n_active" or "n_chance" not in dataset)]
    for name in names:
        header = SCORE_HEADERS[name]
        if header in ("run", "condition"):
            table.add_column(header, overflow="fold", max_width=16)
        else:
            table.add_column(header, justify="right", no_wrap=True)
    for row in zip(*(dataset[name].to_numpy().tolist() for name in names), strict=True):
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else escape(printable(str(cell))) for cell in row))
    return table


def sweep_table(summary: Any, simulated: bool) -> Table:
    """Show the scores of each combination of settings, with their standard deviation over the seeds."""
    table = Table(
        title=f"{'Simulated session' if simulated else 'Session'}: means over runs and seeds (standard deviation)",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    names = [name for name in summary if not name.endswith("_sd")]
    for name in names:
        table.add_column(SCORE_HEADERS.get(name, name.replace("_", "\n")), justify="right", no_wrap=True)
    for _, row in summary.iterrows():
        cells = []
        for name in names:
            deviation = row.get(f"{name}_sd", float("nan"))
            shown = f"{row[name]:.3g}" if isinstance(row[name], float) else escape(str(row[name]))
            cells.append(shown if deviation != deviation else f"{shown}\n({deviation:.2g})")
        table.add_row(*cells)
    return table


def print_contrasts(model: Any, relative: bool, how: dict[str, Any]) -> None:
    """Print all tests of every two groups, as the paper's Table 1, with the limits of each."""
    from larscope._report.comparison import TESTS

    limits = []
    for test, title in TESTS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # printed below, each with its groups
            contrasts = model.comparison_table(test=test, relative=relative, **how)
        table = Table(
            title=f"{title}{' (simulated data)' if model.simulated_ else ''}", box=SIMPLE, padding=(0, 1, 0, 0)
        )
        table.add_column("groups", overflow="fold", min_width=8)
        for column in (
            "effect, %\n(95 %)",
            "R\n(spread)",
            "rank-\nsum p",
            "p\n(smallest)",
            "Bonfer-\nroni",
            "Holm",
            "BH",
        ):
            table.add_column(column, justify="right", no_wrap=True)
        for row in contrasts:
            found = row.comparison
            low, high = found.effect_interval
            interval = f"{low:.0f} to {high:.0f}" if math.isfinite(low) else "too few units"
            cells = [
                f"{found.effect_size:.1f}\n({interval})",
                f"{found.anosim_r:.2f}\n({found.permdisp_pvalue:.2g})",
                f"{found.pvalue_ranksum:.2g}",
                f"{found.pvalue:.2g}\n({found.min_pvalue:.2g})",
                *(f"{p:.2g}" for p in (row.pvalue_bonferroni, row.pvalue_holm, row.pvalue_fdr)),
            ]
            table.add_row(f"{escape(printable(row.first))}\n{escape(printable(row.second))}", *cells)
            limits += [f"{title}, {row.first} against {row.second}: {text}" for text in (found.units, *found.warnings)]
        console.print(table)
    print_plain(
        "R: ANOSIM, from 0 (no separation) to 1, with the p of a difference in spread (PERMDISP). p: "
        "permutation of labels, with the smallest p of this design; then corrected for the number of rows by "
        "Bonferroni, Holm and Benjamini-Hochberg."
    )
    for text in limits:
        print_plain(text)
