"""A section of the page: one question of the reader and its answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from matplotlib.figure import Figure

BROAD = 7.5
"""Inches."""


@dataclass(frozen=True)
class Picture:
    """A static figure of the result folder and the page.

    Attributes
    ----------
    path
        Path of its file in the result folder.
    figure
        The drawing.
    caption
        Its content in a sentence, read aloud by screen readers.
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
        """Whether it has panels side by side, too small on a narrow screen."""
        return bool(self.figure.get_figwidth() > BROAD)


@dataclass(frozen=True)
class Section:
    """One question and its answer.

    Attributes
    ----------
    name
        Name of its place in the page and of its template.
    title
        The reader's question.
    sentences
        The answer.
    pictures
        Static figures. The template shows some always, and some only in print or without scripts.
    explored
        Data of the interactive figures, by name.
    shown
        Further values for the template.
    """

    name: str
    title: str
    sentences: list[str]
    pictures: Sequence[Picture] = ()
    explored: Mapping[str, Any] = field(default_factory=dict)
    shown: Mapping[str, Any] = field(default_factory=dict)
