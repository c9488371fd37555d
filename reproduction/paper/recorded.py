"""Table 2's ablation on a recorded movie, its segments as runs."""

import pandas as pd

from larscope import read_session

from . import table2
from .work import Work


def run(work: Work) -> None:
    if "mouse_2p" not in work.recorded:
        return
    session = read_session(work.recorded["mouse_2p"])
    table = work.found("table2-mouse_2p")
    letter = {"preset": "paper", "center": True, "epochs": None}
    how = {**letter, **work.size.recorded_training, "seed": 0}
    for penalty in work.size.recorded_penalties:
        for mode in table2.MODES:
            if table is not None and ((table["training"] == mode) & (table["penalty"] == penalty)).any():
                continue
            if mode == "sequential":
                model = work.model("mouse_2p", session, refit={"penalty": penalty}, training=mode, **how)
            else:
                model = work.model("mouse_2p", session, training=mode, penalty=penalty, **how)
            table = work.keep(pd.concat([table, table2.measure(model)], ignore_index=True), "table2-mouse_2p")
