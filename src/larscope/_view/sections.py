"""The three sections of the explorer: movie, couplings, penalty. They share a `Choice` and follow its changes."""

from html import escape
from typing import Any

import numpy as np
import pandas as pd
import panel as pn
import param
from bokeh.document import Document
from bokeh.models import CustomJSTickFormatter

from larscope._errors import LarscopeError
from larscope._movies.session import Run
from larscope._view.background import Background
from larscope._view.couplings import LatentPath, couplings_of
from larscope._view.figures import CouplingMap, MoviePanels, PathPlot, Trace
from larscope._view.frames import Stretch
from larscope._view.open_result import Exhibit

TABLE_ROWS = 12
"""Couplings listed beside the image."""

IMAGE_SIZE = 420
"""Largest height and width of an image, in pixels."""

STYLE = """
  p, h2, ul { margin: .2rem 0; } h2 { font-size: 1.2rem; margin-top: 1.2rem; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
  th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #8884; }
  th:first-child, td:first-child { text-align: left; }
  @media (max-width: 480px) { th, td { padding: .15rem .25rem; } }
  .warning { border-left: .3rem solid #D55E00; padding: .4rem .8rem; list-style: none; overflow-wrap: anywhere; }
  .spinner { display: inline-block; width: .8em; height: .8em; border: .15em solid #8886; border-top-color: #D55E00;
    border-radius: 50%; animation: turn 1s linear infinite; }
  @keyframes turn { to { transform: rotate(1turn); } }
  @media (prefers-reduced-motion: reduce) { .spinner { animation-duration: 4s; } }
"""

PRESSED = ".bk-btn.bk-active { background-color: #0072B2 !important; color: #fff !important; }"


class Choice(param.Parameterized):
    """The visitor's present choices."""

    run = param.Integer(0)
    frame = param.Integer(0)
    latent = param.Integer(0)


def text(content: str = "") -> Any:
    """Return a place for text; escape names from files."""
    return pn.pane.HTML(content, stylesheets=[STYLE], sizing_mode="stretch_width", margin=(2, 10))


def progress_sign() -> Any:
    """Return a place for the name of the running computation; it keeps its room."""
    return pn.pane.HTML('<p role="status"></p>', stylesheets=[STYLE], styles={"flex": "1 1 200px"})


def page_document() -> Document:
    """Return the document of the page in the making."""
    document = pn.state.curdoc
    assert document is not None  # pages are made for visitors only
    return document


def background(exhibit_thread: Any, sign: Any) -> Background:
    """Return this page's place in one of the shared threads, with a sign of progress."""

    def say(what: str | None) -> None:
        said = "" if what is None else f'<span class="spinner"></span> {escape(what)} …'
        sign.object = f'<p role="status">{said}</p>'

    return Background(page_document(), exhibit_thread, say)


def _beside(image: Any, other: Any, shape: tuple[int, ...]) -> Any:
    """Put an image beside something else, or above it on a narrow screen."""
    width = IMAGE_SIZE * shape[1] // max(shape)
    left = pn.Column(image, styles={"flex": f"1 1 {width}px", "max-width": f"{width}px", "min-width": "0"})
    right = pn.Column(other, styles={"flex": "1 1 340px", "min-width": "0"})
    return pn.FlexBox(left, right, gap="1rem", sizing_mode="stretch_width")


def _row(*items: Any, align: str = "end") -> Any:
    return pn.FlexBox(*items, align_items=align, sizing_mode="stretch_width")


class MovieSection:
    """Scrub through a run: frame, one-step-ahead forecast and residual."""

    def __init__(self, exhibit: Exhibit, choice: Choice) -> None:
        self._exhibit = exhibit
        self._choice = choice
        self._document = page_document()
        self._stretch: Stretch | LarscopeError | None = None
        self._player: Any = None
        self._ahead: tuple[int, int] | None = None
        self._make_controls()
        mean_frame, examples = exhibit.model.mean_frame_, exhibit.model.dataset_["example_observed"].to_numpy()
        self._top = float(np.quantile(examples, 0.999))
        self._spread = float(np.quantile(np.abs(examples - mean_frame), 0.999))
        self._panels = MoviePanels(mean_frame, self._top, self._spread, exhibit.positions)
        self._panels.on_pick(lambda latent: choice.param.update(latent=latent))
        self._text, sign = text(), progress_sign()
        self._work = background(exhibit.frame_thread, sign)
        self.layout = pn.Column(
            text("<h2>The movie beside its forecast</h2>"),
            _row(self._run, self._change),
            self._grid(mean_frame.shape),
            self._frame,
            self._text,
            _row(self._play, self._speed, sign),
            sizing_mode="stretch_width",
        )
        self._wire()
        self._panels.outline(choice.latent)
        self._show_frame()

    def _make_controls(self) -> None:
        runs = self._exhibit.model.runs_
        labels = [f"{name} ({condition})" for name, condition in zip(runs["run"], runs["condition"], strict=True)]
        self._run: Any = pn.widgets.Select(label="Run", options=dict(zip(labels, range(len(labels)), strict=True)))
        self._change: Any = pn.widgets.RadioButtonGroup(
            options={"change from the mean frame": True, "brightness": False}, value=True, stylesheets=[PRESSED]
        )
        self._frame: Any = pn.widgets.IntSlider(
            label="Frame", start=0, end=self._last_frame(), value=self._choice.frame, sizing_mode="stretch_width"
        )
        # a button that changes its name is made anew, and loses the focus
        self._play: Any = pn.widgets.Toggle(label="Play", width=80, stylesheets=[PRESSED])
        self._speed: Any = pn.widgets.Select(label="Frames a second", options=[1, 2, 5, 10, 20], value=5, width=120)

    def _last_frame(self) -> int:
        return len(self._exhibit.model.latents_[self._choice.run]) - 1

    def _grid(self, shape: tuple[int, ...]) -> Any:
        titles = ("frame", "forecast, one frame ahead", "residual: frame - forecast")
        cells = [
            pn.Column(text(f"<p>{title}</p>"), plot, sizing_mode="stretch_width")
            for title, plot in zip(titles, self._panels.plots, strict=True)
        ]
        columns = f"repeat(3, minmax(0, {IMAGE_SIZE * shape[1] // max(shape)}px))"
        return pn.GridBox(
            *cells, ncols=3, styles={"grid-template-columns": columns, "gap": "4px"}, sizing_mode="stretch_width"
        )

    def _wire(self) -> None:
        self._run.link(self._choice, value="run")
        self._frame.link(self._choice, value="frame", bidirectional=True)
        self._choice.param.watch(lambda _: self._change_run(), "run")
        self._choice.param.watch(lambda _: self._show_frame(), "frame")
        self._choice.param.watch(lambda event: self._panels.outline(event.new), "latent")
        self._change.param.watch(lambda _: self._draw(), "value")
        for control in (self._play, self._speed):
            control.param.watch(lambda _: self._play_or_pause(), "value")

    def _change_run(self) -> None:
        last = self._last_frame()
        self._frame.param.update(end=last, value=min(self._choice.frame, last))
        self._show_frame()

    def _show_frame(self) -> None:
        run, frame = self._choice.run, self._choice.frame
        if (kept := self._exhibit.screen.kept(run, frame)) is not None:
            self._work.forget()
            self._take(kept)
            return
        first, stop = self._exhibit.screen.range_of(run, frame)
        self._work.ask(
            f"Reading and decoding frames {first} to {stop - 1}",
            lambda: self._exhibit.screen.render(run, frame),
            self._take,
        )

    def _take(self, stretch: Stretch | LarscopeError) -> None:
        self._stretch = stretch
        self._draw()
        if isinstance(stretch, Stretch):
            self._read_ahead(self._choice.run, stretch.start + len(stretch.observed))

    def _read_ahead(self, run: int, frame: int) -> None:
        """Decode the next stretch ahead, for smooth scrubbing."""
        if frame <= self._last_frame() and (run, frame) != self._ahead:
            self._ahead = run, frame
            self._exhibit.frame_thread.submit(self._exhibit.screen.render, run, frame)

    def _draw(self) -> None:
        as_change = bool(self._change.value)
        if self._stretch is None:
            return
        if isinstance(self._stretch, LarscopeError):
            self._panels.clear(as_change)
            self._text.object = f'<p class="warning">{escape(str(self._stretch))}</p>'
            return
        at = self._choice.frame - self._stretch.start
        forecast = self._stretch.forecast[at]
        self._panels.show(self._stretch.observed[at], forecast, as_change)
        self._text.object = self._describe(has_forecast=bool(np.isfinite(forecast).any()))

    def _describe(self, has_forecast: bool) -> str:
        model, run, frame = self._exhibit.model, self._choice.run, self._choice.frame
        name, rate, start = (model.runs_[column][run] for column in ("run", "frame_rate", "start"))
        movie = self._exhibit.screen.runs[run]
        parts = [f"Frame <b>{frame}</b> (0 to {self._last_frame()}) of run {escape(str(name))}"]
        if pd.notna(rate):
            parts.append(f"{frame / rate:.2f} s")
        if isinstance(movie, Run) and movie.path is not None:
            parts.append(f"frame {frame + start} of {escape(movie.path.name)}")
        if not has_forecast:
            parts.append(f"no forecast: it needs the {model.var_.order} frames before")
        spread = f"{-self._spread:.2g} (blue) to {self._spread:.2g} (red)"
        shown = spread if self._change.value else f"0 (black) to {self._top:.2g} (white), residual {spread}"
        return f"<p>{'; '.join(parts)}. Scale of every frame: {shown}, in the session's [0, 1].</p>"

    def _play_or_pause(self) -> None:
        if self._player is not None:
            self._document.remove_periodic_callback(self._player)
        playing = self._play.value
        self._player = (
            self._document.add_periodic_callback(self._advance, 1000 // self._speed.value) if playing else None
        )

    def _advance(self) -> None:
        """Go to the next frame, unless this one is still being decoded."""
        if not self._work.busy:
            self._choice.frame = (self._choice.frame + 1) % (self._last_frame() + 1)


class CouplingSection:
    """The couplings of the chosen latent, and its trace."""

    def __init__(self, exhibit: Exhibit, choice: Choice) -> None:
        self._exhibit = exhibit
        self._choice = choice
        last, order = len(exhibit.positions) - 1, exhibit.model.var_.order
        self._latent: Any = pn.widgets.IntInput(
            label=f"Latent (0 to {last})", start=0, end=last, value=choice.latent, width=130
        )
        self._direction: Any = pn.widgets.RadioButtonGroup(
            options=["both", "incoming", "outgoing"], value="both", stylesheets=[PRESSED]
        )
        lags = {"all": 0, **{str(lag): lag for lag in range(1, order + 1)}}
        self._lag: Any = pn.widgets.Select(label="Lag (frames)", options=lags, width=110)
        self._arrows: Any = pn.widgets.IntSlider(label="Arrows", start=1, end=60, value=20, width=200)
        self._map = CouplingMap(exhibit.model.mean_frame_, exhibit.positions, "couplings")
        self._map.on_pick(lambda latent: choice.param.update(latent=latent))
        self._trace = Trace()
        self._trace.on_pick(self._go_to)
        self._text, self._table = text(), text()
        shared = " Couplings are the run's own; forecasts use the matrix of its condition."
        if exhibit.model.coefficients == "run":
            shared = ""
        self.layout = pn.Column(
            text("<h2>The couplings of one latent</h2>"),
            text("<p>Click on any image to choose the nearest latent, or type its number.</p>"),
            _row(self._latent, self._direction, self._lag, self._arrows),
            self._text,
            _beside(self._map.plot, self._table, exhibit.model.mean_frame_.shape),
            text(f"<p>The latent in this run (grey) beside its forecast (orange). Click to go to a frame.{shared}</p>"),
            self._trace.plot,
            sizing_mode="stretch_width",
        )
        self._latent.link(choice, callbacks={"value": self._type_latent})
        choice.param.watch(lambda event: self._latent.param.update(value=event.new), "latent")
        choice.param.watch(lambda _: self._show(), ["run", "latent"])
        choice.param.watch(lambda event: self._trace.mark(event.new), "frame")
        for control in (self._direction, self._lag, self._arrows):
            control.param.watch(lambda _: self._show_couplings(), "value")
        self._trace.mark(choice.frame)
        self._show()

    def _type_latent(self, choice: Choice, event: Any) -> None:
        if event.new is not None:  # an emptied field
            choice.latent = event.new

    def _go_to(self, frame: float) -> None:
        last = len(self._exhibit.model.latents_[self._choice.run]) - 1
        self._choice.frame = int(np.clip(round(frame), 0, last))

    def _show(self) -> None:
        model, run, latent = self._exhibit.model, self._choice.run, self._choice.latent
        self._trace.show(model.latents_[run][:, latent], model.forecasts_[run][:, latent])
        self._show_couplings()

    def _show_couplings(self) -> None:
        latent = self._choice.latent
        every = couplings_of(self._exhibit.model, self._choice.run, latent)
        shown = every[every["lag"] == self._lag.value] if self._lag.value else every
        if self._direction.value != "both":
            end = "target" if self._direction.value == "incoming" else "source"
            shown = shown[shown[end] == latent]
        drawn = self._map.show(shown, latent, self._arrows.value)
        self._text.object = self._describe(every, drawn)
        self._table.object = self._tabulate(shown)

    def _describe(self, every: pd.DataFrame, drawn: tuple[int, int]) -> str:
        latent = self._choice.latent
        row, column = self._exhibit.positions[latent]
        own = every[every["source"] == every["target"]]
        past = ", ".join(f"{coef:+.3f} at lag {lag}" for lag, coef in zip(own["lag"], own["coef"], strict=True))
        incoming, outgoing = (int((every[end] == latent).sum()) - len(own) for end in ("target", "source"))
        return (
            f"<p>Latent <b>{latent}</b>, around row {row:.0f} and column {column:.0f}: {incoming} incoming and "
            f"{outgoing} outgoing coefficients in this run; own past: {past or 'none'}. Arrows: {drawn[0]} of "
            f"{drawn[1]} pairs of latents, the strongest; orange raises, blue lowers.</p>"
        )

    def _tabulate(self, couplings: pd.DataFrame) -> str:
        if couplings.empty:
            return "<p>No couplings.</p>"
        chosen = self._choice.latent
        rows = []
        for source, target, lag, coef in couplings.head(TABLE_ROWS).itertuples(index=False):
            other = target if source == chosen else source
            row, column = self._exhibit.positions[other]
            how = "own past" if source == target else "outgoing" if source == chosen else "incoming"
            cells = (how, other, lag, f"{coef:+.3f}", f"{row:.0f}, {column:.0f}")
            rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        head = "".join(f"<th>{name}</th>" for name in ("", "latent", "lag", "coefficient", "row, column"))
        more = f"<p>The strongest {TABLE_ROWS} of {len(couplings)}.</p>" if len(couplings) > TABLE_ROWS else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{more}"


class PathSection:
    """Move the penalty along the exact path of the chosen latent, and see its incoming couplings appear."""

    def __init__(self, exhibit: Exhibit, choice: Choice) -> None:
        self._exhibit = exhibit
        self._choice = choice
        self._fitted = exhibit.model.penalty_
        self._path: LatentPath | None = None
        # its value is minus the logarithm, so that coefficients appear as it goes right
        self._slider: Any = pn.widgets.FloatSlider(
            label="Penalty",
            start=0,
            end=1,
            format=CustomJSTickFormatter(code="return (10 ** -tick).toPrecision(3)"),
            sizing_mode="stretch_width",
        )
        own: Any = pn.widgets.Button(label="The fit's own penalty")
        self._map = CouplingMap(exhibit.model.mean_frame_, exhibit.positions, "path-couplings")
        self._map.on_pick(lambda latent: choice.param.update(latent=latent))
        self._plot = PathPlot(self._fitted)
        self._plot.on_pick(self._move_to)
        self._text, sign = text(), progress_sign()
        self._work = background(exhibit.path_thread, sign)
        self.layout = pn.Column(
            text("<h2>How its incoming couplings depend on the penalty</h2>"),
            text(
                "<p>The exact path: each coefficient leading to the chosen latent, at every penalty, high on the "
                "left and low on the right. Green: the slider. Dashed: the fit's own.</p>"
            ),
            self._slider,
            self._text,
            _row(own, sign, align="center"),
            _beside(self._map.plot, self._plot.plot, exhibit.model.mean_frame_.shape),
            sizing_mode="stretch_width",
        )
        self._slider.param.watch(lambda _: self._show_penalty(), "value")
        own.on_click(lambda _: self._move_to(self._fitted))
        choice.param.watch(lambda _: self._follow(), ["run", "latent"])
        self._follow()

    def _follow(self) -> None:
        run, latent = self._choice.run, self._choice.latent
        n_frames, n_latents = self._exhibit.model.latents_[run].shape
        self._path = None
        self._slider.disabled = True
        self._work.ask(
            f"Following the exact path of latent {latent}: {self._exhibit.model.var_.order * n_latents} coefficients, "
            f"{n_frames} frames",
            lambda: self._exhibit.path_of(run, latent),
            self._show_path,
        )

    def _show_path(self, path: LatentPath | LarscopeError) -> None:
        if isinstance(path, LarscopeError):
            self._text.object = f'<p class="warning">{escape(str(path))}</p>'
            return
        self._path = path
        largest, smallest = 1.1 * max(float(path.penalties[0]), self._fitted), float(path.penalties[-1])
        self._plot.show(path, (largest, smallest))
        start, end = -np.log10(largest), -np.log10(smallest)
        own = -np.log10(self._fitted)
        self._slider.param.update(start=start, end=end, step=(end - start) / 500, value=own, disabled=False)
        self._show_penalty()

    def _move_to(self, penalty: float) -> None:
        if self._path is not None:
            self._slider.value = float(np.clip(-np.log10(penalty), self._slider.start, self._slider.end))

    def _show_penalty(self) -> None:
        if self._path is None:
            return
        penalty = 10.0**-self._slider.value
        couplings = self._path.at(penalty)
        self._map.show(couplings, self._path.latent)
        self._plot.mark(penalty)
        event = self._path.last_event(penalty)
        latest = "" if event is None else f" The last change, at {event[0]:.3g}: {', '.join(event[1])}."
        self._text.object = (
            f"<p>Penalty <b>{penalty:.3g}</b> (alpha {penalty * self._path.alpha_per_penalty:.3g}; the fit's own "
            f"penalty is {self._fitted:g}): <b>{len(couplings)}</b> active coefficients.{latest}</p>"
        )
