"""The session table: one row a run."""

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from larscope._errors import LarscopeError, interrupts_as_such, suggest
from larscope._movies.readers.formats import is_movie, open_movie
from larscope._movies.readers.reader import OnTruncated
from larscope._movies.session import Run, Session
from larscope._storage import replacing

ONE_CONDITION = "all"
"""The condition of movies without a table."""

Optional = BeforeValidator(lambda value: None if value == "" else value)


class Row(BaseModel):
    """The columns of a session table."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    path: Annotated[str, Field(min_length=1)]
    condition: Annotated[str, Field(min_length=1)]
    run: Annotated[str | None, Optional] = None
    block: Annotated[str | None, Optional] = None
    subject: Annotated[str | None, Optional] = None
    start: Annotated[int | None, Optional] = None
    stop: Annotated[int | None, Optional] = None
    dataset: Annotated[str | None, Optional] = None
    channel: Annotated[str | None, Optional] = None
    plane: Annotated[str | None, Optional] = None
    frame_rate: Annotated[float | None, Field(gt=0, allow_inf_nan=False), Optional] = None
    pixel_size: Annotated[float | None, Field(gt=0, allow_inf_nan=False), Optional] = None


@dataclass(frozen=True)
class BrokenRun:
    """A row of a session table with an unreadable movie, and the reason."""

    name: str
    error: LarscopeError


def read_session(path: str | Path, *, on_truncated: OnTruncated = "error") -> Session:
    r"""Read a session table, a CSV file with one row a run.

    Parameters
    ----------
    path
        A movie alone is one run. A table has the columns `path` (of the movie, relative to the table) and
        `condition`; optional are `run` (name, default the row's number), `block`, `subject`, `start` and `stop`
        (frames, `stop` exclusive), `dataset`, `channel` and `plane` (which of those in the file, see `open_movie`),
        `frame_rate` (1/s), `pixel_size` (micrometres). A `path` such as `day1_*.tif` joins several files. What the
        table leaves empty and the file says is taken from the file: `frame_rate`, `pixel_size`, `subject`.
    on_truncated
        A movie that was cut short is an `"error"`, or `"keep"` its whole frames up to there, with a warning.

    Returns
    -------
    Session
        Its movies are opened and checked, their frames not yet read.

    Raises
    ------
    LarscopeError
        A file or column is missing or unknown, a cell cannot be understood, or a movie cannot be opened.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> np.save(folder / "day1.npy", np.zeros((100, 16, 16), np.uint16))
    >>> table = folder / "session.csv"
    >>> _ = table.write_text("path,condition,start,stop\nday1.npy,familiar,0,50\nday1.npy,novel,50,100\n")
    >>> [run.n_frames for run in read_session(table)]
    [50, 50]
    """
    path = Path(path)
    rows = read_rows(path)
    runs = tuple(
        _open_run(path, number, parse_row(path, number, row), on_truncated) for number, row in enumerate(rows, start=1)
    )
    # a table with its truth beside it was written by `larscope simulate`
    return Session(runs, simulated=(path.parent / "truth.npz").is_file())


def read_runs(path: str | Path, *, on_truncated: OnTruncated = "error") -> tuple[Run | BrokenRun, ...]:
    r"""Read a session table row by row, so one broken movie hides none of the others.

    Parameters
    ----------
    path, on_truncated
        As for `read_session`.

    Raises
    ------
    LarscopeError
        The table itself cannot be read, or a column is missing or unknown.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> np.save(folder / "day1.npy", np.zeros((100, 16, 16), np.uint16))
    >>> table = folder / "session.csv"
    >>> _ = table.write_text("path,condition\nday1.npy,familiar\nday2.npy,novel\n")
    >>> [type(run).__name__ for run in read_runs(table)]  # the second movie is missing
    ['Run', 'BrokenRun']
    """
    path = Path(path)
    runs: list[Run | BrokenRun] = []
    for number, row in enumerate(read_rows(path), start=1):
        try:
            with interrupts_as_such():
                runs.append(_open_run(path, number, parse_row(path, number, row), on_truncated))
        except LarscopeError as error:
            cell = row.get("run")
            name = cell.strip() if isinstance(cell, str) else ""  # NaN in a short row
            runs.append(BrokenRun(name if name and is_plain(name) else str(number), error))
    return tuple(runs)


def read_rows(path: Path) -> list[dict[Any, Any]]:
    """Return the cells of each row by column, its columns known; a movie in place of a table is one run."""
    if path.suffix.lower() != ".csv" and is_movie(path):
        return [{"path": path.name, "condition": ONE_CONDITION, "run": path.stem}]
    if path.is_dir():
        tables = ", ".join(sorted(found.name for found in path.glob("*.csv"))) or "no CSV"
        held = "a result" if (path / "results.nc").is_file() else tables
        raise LarscopeError(
            f"Expected a session table (CSV) or a movie; {path} is a folder that holds {held}. Give the path of the "
            "table."
        )
    if not path.is_file():
        raise LarscopeError(f"Expected a session table (CSV); {path} does not exist. Check the path.")
    table = _read_csv(path)
    _require_columns(path, table)
    return table.to_dict("records")


def write_table(movies: Sequence[Path], path: Path) -> Path:
    """Write a session table of movies, one row each, all of one condition, for you to edit.

    Raises
    ------
    LarscopeError
        A movie is missing, or the table exists already.
    """
    for movie in movies:
        if not movie.exists():
            raise LarscopeError(f"Expected a movie; {movie} does not exist. Check the path.")
    if path.exists():
        raise LarscopeError(f"Expected a new table; {path} exists. Give another name with --out, or remove it.")
    folder = path.resolve().parent
    rows = [
        {"run": movie.stem, "path": os.path.relpath(movie.resolve(), folder), "condition": ONE_CONDITION, "block": ""}
        for movie in movies
    ]
    with replacing(path) as filling:
        pd.DataFrame(rows).to_csv(filling, index=False, lineterminator="\n")
    return path


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise LarscopeError(
            f"Expected a CSV table with a header line; {path} cannot be read: {str(error).strip()}. "
            "Save it as comma-separated UTF-8 text."
        ) from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas took the first cells for row names
        raise LarscopeError(
            f"{path}: the rows have more cells than the header line has columns ({', '.join(table.columns)}). "
            "Name every column, or remove the cells."
        )
    if len(table.columns) == 1 and ";" in table.columns[0]:
        raise LarscopeError(
            f"{path}: cells must be separated by commas; got {table.columns[0]!r}. Save the table with commas."
        )
    return table


def _require_columns(path: Path, table: pd.DataFrame) -> None:
    table.columns = [str(column).strip() for column in table.columns]
    known = list(Row.model_fields)
    for column in table.columns:
        if column not in known:
            raise LarscopeError(f"{path}: unknown column {column!r}. {suggest(column, known)}")
    for column in ("path", "condition"):
        if column not in table.columns:
            raise LarscopeError(f"{path}: the column {column!r} is missing; found {', '.join(table.columns)}. Add it.")


def parse_row(path: Path, number: int, row: dict[Any, Any]) -> Row:
    """Return a row whose cells are understood; `number` is for messages."""
    # a short row leaves its last cells missing, which pandas reads as NaN whatever the dtype
    cells = {name: "" if pd.isna(cell) else str(cell).strip() for name, cell in row.items()}
    for column, cell in cells.items():
        if not is_plain(cell):
            raise LarscopeError(
                f"{path}, row {number}, column {column!r}: expected plain text; got a control character in {cell!r}. "
                "Correct the cell."
            )
    try:
        return Row.model_validate(cells)
    except ValidationError as error:
        first = error.errors()[0]
        column = first["loc"][0]
        raise LarscopeError(
            f"{path}, row {number}, column {column!r}: {first['msg'].lower()}; got {cells.get(str(column), '')!r}. "
            "Correct the cell."
        ) from error


def is_plain(text: str) -> bool:
    r"""Whether a text is free of control characters, a danger to terminals.

    >>> is_plain("novel object"), is_plain("\x1b[2J")
    (True, False)
    """
    return not any(unicodedata.category(letter) == "Cc" for letter in text)


def _open_run(table: Path, number: int, row: Row, on_truncated: OnTruncated) -> Run:
    name = row.run or str(number)
    path = table.parent / row.path
    try:
        movie = open_movie(path, row.dataset, channel=row.channel, plane=row.plane, on_truncated=on_truncated)
        return Run(
            name=name,
            condition=row.condition,
            movie=movie,
            start=row.start or 0,
            stop=row.stop,
            path=path,
            block=row.block,
            subject=row.subject or getattr(movie, "subject", None),
            frame_rate=row.frame_rate or getattr(movie, "frame_rate", None),
            pixel_size=row.pixel_size or getattr(movie, "pixel_size", None),
            dataset=row.dataset,
            channel=row.channel,
            plane=row.plane,
        )
    except LarscopeError as error:
        raise LarscopeError(f"{table}, row {number}, run {name!r}: {error}") from error
