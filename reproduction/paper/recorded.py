"""Table 2's ablation on a recorded movie, its segments as runs."""

from larscope import read_session

from . import table2
from .work import Work


def run(work: Work, penalty: float) -> None:
    if "mouse_2p" not in work.recorded:
        return
    session = read_session(work.recorded["mouse_2p"])
    paper = {"preset": "paper", "center": True, "epochs": None}
    how = {**paper, **work.size.recorded_training, "seed": 0}
    for mode in table2.MODES:
        if work.has("table2-mouse_2p", training=mode, penalty=penalty):
            continue
        if mode == "sequential":
            model = work.model("mouse_2p", session, refit={"penalty": penalty}, training=mode, **how)
        else:
            model = work.model("mouse_2p", session, training=mode, penalty=penalty, **how)
        work.add("table2-mouse_2p", table2.measure(model))
