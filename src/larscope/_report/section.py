"""A section of the page: one question of its reader, and what answers it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from matplotlib.figure import Figure

BROAD = 7.5
"""Inches."""


@dataclass(frozen=True)
class Picture:
    """A static figure, as it lies in the result folder and on the page.

    Attributes
    ----------
    path
        Of its file in the result folder.
    figure
        What is drawn.
    caption
        What it shows, in a sentence: also what is read aloud in its place.
    """

    path: str
    figure: Figure
    caption: str

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return PurePosixPath(self.path).stem

    @property
    def is_broad(self) -> bool:
        """Whether it has panels side by side, which a narrow screen would make illegible."""
        return bool(self.figure.get_figwidth() > BROAD)


@dataclass(frozen=True)
class Section:
    """One question, and what answers it.

    Attributes
    ----------
    name
        Of its place in the page and of its template.
    title
        The reader's question.
    sentences
        The answer.
    pictures
        Static figures. The template shows some always, and some only in print or without scripts.
    explored
        What the page's script draws, by name.
    shown
        Whatever else the template needs.
    """

    name: str
    title: str
    sentences: list[str]
    pictures: Sequence[Picture] = ()
    explored: Mapping[str, Any] = field(default_factory=dict)
    shown: Mapping[str, Any] = field(default_factory=dict)
