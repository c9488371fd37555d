"""One visitor's page: the explorer, and the report below it."""

from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import panel as pn

from larscope._errors import LarscopeError
from larscope._movies.session import Run
from larscope._view.open_result import Exhibit
from larscope._view.sections import (
    Choice,
    CouplingSection,
    MovieSection,
    PathSection,
    background,
    progress_sign,
    text,
)


def build_page(exhibit: Exhibit) -> Any:
    """Return a new page with a state of its own."""
    template = pn.Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    template.add_variable("heading", f"larscope result {exhibit.folder.resolve().name}")
    template.add_variable("simulated", exhibit.model.simulated_)
    template.add_panel("page", build_explorer(exhibit))
    return template


def build_explorer(exhibit: Exhibit) -> Any:
    """Return movie, couplings and penalty, on one choice of run, frame and latent."""
    # the first look is at the frame that the report shows too, and at a latent that has couplings
    liveliest = int(exhibit.model.dataset_["example_frame"].to_numpy()[0])
    choice = Choice(frame=liveliest, latent=_most_coupled(exhibit))  # type: ignore[no-untyped-call]
    sections = [section(exhibit, choice).layout for section in (MovieSection, CouplingSection, PathSection)]
    return pn.Column(_warnings(exhibit), *sections, sizing_mode="stretch_width")


def _most_coupled(exhibit: Exhibit) -> int:
    _, _, target, source = exhibit.model.coef_.nonzero
    other = target != source
    n_latents = len(exhibit.positions)
    return int(np.argmax(sum(np.bincount(end[other], minlength=n_latents) for end in (target, source))))


def _warnings(exhibit: Exhibit) -> Any:
    """Return a place for the names of missing movies, and of movies changed since the fit."""
    place, sign = text(), progress_sign()

    def warn(changed: list[str] | LarscopeError) -> None:
        missing = [str(run) for run in exhibit.screen.runs if isinstance(run, LarscopeError)]
        sentences = missing + ([str(changed)] if isinstance(changed, LarscopeError) else changed)
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
        place.object = f'<ul role="alert" class="warning">{items}</ul>' if items else ""

    warn([])
    if any(isinstance(run, Run) for run in exhibit.screen.runs):
        work = background(exhibit.path_thread, sign)
        work.ask("Checking that your movies are the fitted ones", exhibit.changed_files, warn)
    return pn.Column(place, pn.FlexBox(sign), sizing_mode="stretch_width")
