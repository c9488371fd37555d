"""`LatentVAR`: fit, transform, forecast, score, save.

Its comparisons of conditions are in `larscope._fit.comparing`.
"""

import copy
import inspect
import math
import sys
import time
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from lightning.fabric import Fabric
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from larscope._compute.processes import Processes, is_first, spread
from larscope._dynamics.penalty import (
    OrderChoice,
    PenaltyChoice,
    TinyPenaltyWarning,
    choose_order,
    choose_penalty,
    chosen_runs,
    trace_penalties,
)
from larscope._dynamics.var import HELD_OUT, VARFit
from larscope._errors import LarscopeError
from larscope._fit.comparing import ComparesConditions, Series
from larscope._fit.coupling_table import tabulate_couplings
from larscope._fit.evaluation import (
    RunEvaluation,
    SharedCoefficients,
    clip_run,
    decode_run,
    encode_run,
    evaluate_run,
    explain_frames,
    share_coefficients,
)
from larscope._fit.fitted import (
    add_couplings,
    add_footprints,
    add_maps,
    add_truth,
    build_dataset,
    choice_of,
    coefficients_of,
    crop_offset_of,
    order_choice_of,
    preprocessing_of,
    runs_of,
    score_session,
    scores_of,
    series_of,
)
from larscope._fit.networks import Network, begin_network, restore_network
from larscope._fit.preflight import Estimate, estimate_fit
from larscope._fit.showing import ShowsItself
from larscope._fit.traces import Traces, draw_traces
from larscope._fit.training import build_var, train
from larscope._movies.preprocessing import PreparedSession, Preprocessing, prepare_showing
from larscope._movies.session import Session, require_frames
from larscope._network.autoencoder import Autoencoder
from larscope._results.folder import SHARED, Result, read_result, write_result
from larscope._results.provenance import describe_versions, git_commit
from larscope._settings import REFITTED, Preset, Settings, setting_names
from larscope._storage import describe_inputs

MANY_LATENTS = 1000
"""Number of latents from which a fit warns."""

TINY_PENALTY = 0.05
"""Warn below this penalty (in noise units)."""

TRAINED_BY = ("created", "seconds", "command", "fit", "versions", "git")
"""Record of the training kept by a refit."""


class LatentVAR(ShowsItself, ComparesConditions):
    """Sparse dynamics of the latents of a convolutional autoencoder, learned together (sec. 2).

    Takes every setting of `Settings` as a keyword, under the same name as `larscope fit` does, and `preset`, a named
    set of settings (`"paper"`: the paper's). Settings you pass override it. `settings` holds them all; `model.penalty`
    reads one and `model.penalty = 0.5` changes it, as `set_params` does. Two models are equal only if they are the same
    object; `sklearn.base.clone` gives an unfitted one with the same settings.

    Attributes
    ----------
    coef_
        One sparse (order, K, K) a run: `coef_[i][k - 1, j, l]` is the effect of latent l on latent j at lag k. Each
        run's own, whatever `coefficients` says; forecasts and scores follow `coefficients`.
    scores_
        One row a run: `reconstruction_error`, `forecast_error` (mean squared, [0, 1] units), `var_error`,
        `var_explained`, `var_error_heldout` and `own_error_heldout`, that of each latent's own past alone; `n_active`;
        `n_couplings` of the run's own fit between latents, and `n_chance`, how many of them chance alone finds. Then
        what to check before you trust that fit: `spectral_radius` (from 1 on, its dynamics do not die out),
        `n_autocorrelated` (latents whose residuals are not white), `residual_correlation` (the largest, in the same
        frame) and its pair of latents, `residual_first` and `residual_second`.
    couplings_
        One row a condition and pair of latents with evidence of a coupling, over all runs of the condition:
        `condition`, `source`, `target`, `lag`, `effect`, `n_runs`, `qvalue` (`larscope._fit.coupling_table`). Those
        with `qvalue <= 0.1` are beyond chance: of these, a tenth is expected to be chance.
    latents_, forecasts_
        Series of each run, (T, K) and (T - order, K); NaN at masked frames.
    contribution_maps_
        (runs, height, width): where in the image each run's couplings come from: influence, without unit.
    footprints_
        With `latents="cells"`, (K, height, width): where each cell is.
    mean_frame_
        (height, width), in [0, 1].
    runs_
        The session's table.
    log_
        One row a training step.
    dataset_
        All of this as one dataset of xarray, as `results.nc` holds it: see [the result](result.md).
    penalty_, choice_
        The penalty of the fits to single runs, and with `penalty="auto"` what it was chosen from; else None.
    order_choice_
        With `order="auto"`, the number of lags that forecasts held-out frames best, with all candidates; else None.
    shared_choice_
        With `coefficients="condition"`, unless `penalty` is a number: the penalty of coefficients shared by runs, with
        all candidates; else None.
    network_, var_, preprocessing_, crop_offset_
        The fitted parts; `crop_offset_` is the row and column of the crop's first pixel.

    Raises
    ------
    LarscopeError
        A setting is unknown or out of its range.

    Examples
    --------
    >>> from larscope import LatentVAR, simulate_session
    >>> session = simulate_session(n_runs=2, n_frames=80, frame_shape=(48, 48), seed=0)
    >>> model = LatentVAR(order=2, window=32).fit(session)
    >>> model.footprints_.shape, model.coef_[0].shape
    ((5, 48, 48), (2, 5, 5))
    """

    __signature__ = inspect.Signature(
        [
            inspect.Parameter("preset", inspect.Parameter.KEYWORD_ONLY, default="default", annotation=Preset),
            *inspect.signature(Settings).parameters.values(),
        ]
    )

    scores_: pd.DataFrame
    couplings_: pd.DataFrame
    forecasts_: list[Series]
    log_: list[dict[str, Any]]
    choice_: PenaltyChoice | None
    shared_choice_: PenaltyChoice | None
    order_choice_: OrderChoice | None
    provenance_: dict[str, Any]

    @property
    def footprints_(self) -> Float[NDArray[np.float32], "K height width"]:
        """Where each cell is, in pixels of the prepared frames: non-negative, 1 at its brightest.

        Raises
        ------
        LarscopeError
            Latents are those of a grid.
        """
        network = self._fitted_network()
        if isinstance(network, Autoencoder):
            raise LarscopeError(
                "Footprints are those of cells: this fit has latents='grid', one for each patch of pixels. Fit with "
                "latents='cells'."
            )
        return network.footprints

    @property
    def penalty_(self) -> float:
        """The penalty of the fits to single runs: given, default or chosen."""
        self._fitted_network()
        return self.var_.penalty

    def fit(
        self,
        session: Session,
        *,
        progress: bool = False,
        checkpoints: str | Path | None = None,
        cache: str | Path | None = None,
        max_memory: int | None = None,
        devices: int = 1,
        num_nodes: int = 1,
        strategy: str = "ddp",
    ) -> Self:
        """Train the network on a session, then fit and measure the VAR of each whole run.

        Parameters
        ----------
        session
            Runs, each of at least `order + window` frames.
        progress
            Show bars with the time left.
        checkpoints
            Folder for one checkpoint an epoch; an interrupted fit with the same settings goes on from there.
        cache
            Folder for the preprocessed frames, for movies larger than memory; None keeps them in memory. Frames of
            the same files, preprocessed in the same way, are found there again.
        max_memory
            Limit of resident memory for each process, in bytes (see `larscope._fit.preflight.estimate_fit`).
        devices, num_nodes, strategy
            How many processes train together, on how many machines (see `larscope._compute.processes.Processes`). Each
            runs your script, and has the fitted model in the end; only the first one saves.

        Raises
        ------
        LarscopeError
            A run is too short, a frame cannot be used, the fit needs more than `max_memory`, or there are not so many
            devices.
        """
        started = time.monotonic()
        processes = Processes(devices, num_nodes, strategy)
        keep_memory = self._expect(session, processes, cache is not None).may_keep_memory(max_memory)
        fabric = processes.start()
        progress = progress and fabric.global_rank == 0
        # the others then find the frames in the cache
        with fabric.rank_zero_first() if cache else nullcontext():
            prepared = prepare_showing(session, progress, **self._preparation(), cache=Path(cache) if cache else None)
        folder = Path(checkpoints) if checkpoints else None
        return self._fit(prepared, processes, fabric, started, keep_memory, folder, progress)

    def _preparation(self) -> dict[str, Any]:
        """Return what decides how frames are prepared."""
        return {name: getattr(self.settings, name) for name in ("crop", "downscale", "nan")}

    def _expect(self, session: Session, processes: Processes, cached: bool) -> Estimate:
        """Return what a fit will take; refuse what cannot be, and warn of what will hardly be worth it."""
        settings = self.settings
        processes.share(settings.batch_size)
        estimate = estimate_fit(settings, session, cached)
        if estimate.n_latents > MANY_LATENTS:
            n_coefficients = settings.largest_order * estimate.n_latents**2
            warnings.warn(
                f"A VAR of {estimate.n_latents} latents, one for {settings.patch} x {settings.patch} pixels, has "
                f"{n_coefficients:.2g} coefficients a run: far more than its frames can tell, "
                "and slow. Use `downscale` or `crop`; the paper had 384 latents.",
                stacklevel=3,
            )
        if settings.penalty_scale in ("noise", "residual") and settings.training_penalty < TINY_PENALTY:
            warnings.warn(
                f"A penalty of {settings.training_penalty:g} is {settings.training_penalty:.1%} of the largest chance "
                "correlation. Nearly every coefficient is kept, so the fit is slow and forecasts nothing. Raise the "
                "penalty. The paper's penalties have other units: use preset='paper', or scale='series' with "
                "penalty_scale='mean'.",
                TinyPenaltyWarning,
                stacklevel=3,
            )
        return estimate

    def _fit(
        self,
        prepared: PreparedSession,
        processes: Processes,
        fabric: Fabric,
        started: float,
        keep_memory: bool,
        checkpoints: Path | None,
        progress: bool,
    ) -> Self:
        """Train on prepared frames; then fit and measure."""
        prepared.require_stretches(self.settings.window, self.settings.largest_order)
        try:
            self._take(begin_network(self.settings, prepared, progress), prepared.preprocessing)
            self.log_ = []
            if isinstance(self.network_, Autoencoder):
                self.log_ = train(
                    self.network_, self.var_, prepared, self.settings, checkpoints, progress, keep_memory, processes
                )
            self._fit_runs(prepared, started, progress, fabric)
        except BaseException:
            # a half-trained network, or one that is not that of the results of an earlier fit
            self._forget()
            raise
        return self

    @classmethod
    def from_traces(
        cls,
        traces: Traces,
        condition: Sequence[str],
        block: Sequence[Hashable] | None = None,
        footprints: Float[NDArray[np.floating], "K height width"] | None = None,
        *,
        subject: Sequence[Hashable] | None = None,
        names: Sequence[str] | None = None,
        **settings: Any,
    ) -> Self:
        """Fit the VAR to traces that you have already, such as suite2p's or CaImAn's: no movie and no network.

        Couplings, tests, maps, `save` and the report are those of any other fit.

        Parameters
        ----------
        traces
            One array (frames, cells) a run, the same cells in each: F, dF/F or deconvolved. A frame that is missing is
            NaN in all cells.
        condition, block, subject, names
            Of each run.
        footprints
            (cells, height, width), not negative: where maps show the cells. Without them each is a square of its own.
        settings
            Those of the VAR: `order`, `penalty`, `coefficients`, ...

        Raises
        ------
        LarscopeError
            Traces, conditions and footprints do not fit together, or a setting is wrong.

        Examples
        --------
        >>> rng = np.random.default_rng(1)
        >>> traces = [rng.standard_normal((200, 3)) for _ in range(4)]
        >>> for run in traces:
        ...     run[1:, 2] += run[:-1, 0]  # cell 0 acts on cell 2
        >>> model = LatentVAR.from_traces(traces, ["a", "b", "a", "b"], order=1)
        >>> model.couplings_.query("qvalue <= 0.1")[["condition", "source", "target", "lag"]].to_numpy().tolist()
        [['a', 0, 2, 1], ['b', 0, 2, 1]]
        """
        started = time.monotonic()
        model = cls(**{**settings, "latents": "cells"})
        n_lags = model.settings.largest_order
        network, prepared = draw_traces(traces, condition, block, subject, footprints, n_lags, names)
        model._take(network, prepared.preprocessing)
        model.log_ = []
        latents = [torch.from_numpy(np.asarray(one, np.float32)) for one in traces]
        model._fit_runs(prepared, started, progress=False, latents=latents)
        return model

    def refit(
        self, session: Session, *, progress: bool = False, cache: str | Path | None = None, **settings: Any
    ) -> Self:
        """Return a new model with the same trained network, its VARs fitted and measured with other settings.

        As `fit`, without its training: the latents stay those that were learned with the settings of that training,
        which `provenance_["refitted_from"]` keeps. In `"sequential"` training, which does not depend on them, it is
        what `fit` would have given.

        Parameters
        ----------
        session
            The session of the fit.
        progress, cache
            As in `fit`.
        settings
            Those to change: `order`, `penalty`, `penalty_scale`, `center`, `scale`, `own_weight`, `coefficients` or
            `max_distance`.

        Raises
        ------
        LarscopeError
            A setting is unknown, out of its range or needs a training, or the session is another.

        Examples
        --------
        >>> from larscope import LatentVAR, simulate_session
        >>> session = simulate_session(n_runs=2, n_frames=80, frame_shape=(48, 48), seed=0)
        >>> model = LatentVAR(order=2, window=32).fit(session)
        >>> denser = model.refit(session, penalty=0.2)
        >>> bool((denser.coef_.n_active > model.coef_.n_active).all())
        True
        """
        started = time.monotonic()
        network = self._fitted_network()
        model = type(self)(**self._with(settings).as_dict())
        for name in setting_names():
            value, ours = getattr(model.settings, name), getattr(self.settings, name)
            if name not in REFITTED and value != ours:
                raise LarscopeError(
                    f"A refit keeps the trained network: `{name}` is {ours!r} in this one, and another "
                    f"value needs another training; got {value!r}. Change only {', '.join(REFITTED)}, or call "
                    f"`fit` on LatentVAR({name}={value!r}, ...)."
                )
        self._known_session(session)
        new = model.settings
        require_frames(session, new.n_frames_needed, f"order {new.largest_order} + window {new.window}")
        how = Path(cache) if cache else None
        prepared = prepare_showing(
            session, progress, preprocessing=self.preprocessing_, nan=self.settings.nan, cache=how
        )
        self._require_fitted_frames(prepared)
        restored = restore_network(model.settings, self.mean_frame_, network.state_dict())
        model._take(restored, self.preprocessing_)
        model.log_ = list(self.log_)
        model._fit_runs(prepared, started, progress, latents=[torch.from_numpy(latent) for latent in self.latents_])
        trained = {name: self.provenance_[name] for name in TRAINED_BY if name in self.provenance_}
        first = {**trained, "settings": self.settings.as_dict()}
        model.provenance_["refitted_from"] = self.provenance_.get("refitted_from", first)
        if "checks" in self.provenance_:
            model.provenance_["checks"] = self.provenance_["checks"]
        return model

    def transform(self, session: Session) -> list[Series]:
        """Return the latent series of each run of a session, seen or not, (T, K) each."""
        network, prepared = self._fitted_network(), self._prepare_new(session)
        return [encode_run(network, prepared, run, self.settings.window).cpu().numpy() for run in range(len(session))]

    def forecast(self, session: Session) -> list[Float[NDArray[np.float32], "n height width"]]:
        """Return the one-step-ahead forecasts of frames order .. T - 1 of each run, in the session's [0, 1].

        Each run's coefficients are fitted to its own latents, or with `coefficients="condition"`, are those of its
        condition in the session of the fit. A frame that is masked, or preceded by a masked one within `order`, is NaN.
        """
        network, prepared = self._fitted_network(), self._prepare_new(session)
        lag, order = self.settings.pooling_lag, self.var_.order
        forecasts = []
        for run, (_, fit) in enumerate(self._forecast_runs(prepared)):
            forecast = np.full((len(fit.forecast), *self.mean_frame_.shape), np.nan, np.float32)
            for start, images in decode_run(network, prepared, run, fit.forecast, self.settings.window, lag):
                forecast[start - order : start - order + len(images)] = images.cpu().numpy()
            forecasts.append(forecast)
        return forecasts

    def score(self, session: Session) -> pd.DataFrame:
        """Return the columns of `scores_` for a session, seen or unseen by the network.

        With `coefficients="condition"`, the coefficients are those of the session of the fit: `var_error_heldout` then
        is of runs, not of parts of runs, that they have not seen.
        """
        self._fitted_network()
        order = self.var_.order
        needed = math.ceil((order + 1) / (1 - HELD_OUT)) + 1
        require_frames(session, needed, f"order {order}, fitted to the first {1 - HELD_OUT:.0%} of a run")
        prepared = self._prepare_new(session)
        latents = self._encode(prepared, progress=False)
        return score_session(session, self._evaluate(prepared, latents, self._shared_by_fit(session), progress=False))

    def score_frames(self, session: Session) -> pd.DataFrame:
        """Return how much of a session's movies one-step-ahead forecasts explain: in pixels, as for any other method.

        One row a run: `forecast_explained`, and `ceiling_explained`, the same with the true latents decoded. See
        `larscope._fit.evaluation.explain_frames` for the formula. For runs that the fit has not seen, use
        `coefficients="condition"`: with `"run"`, each run's coefficients are fitted to the frames they then forecast.

        Examples
        --------
        >>> from larscope import simulate_session
        >>> session = simulate_session(n_runs=2, n_frames=80, frame_shape=(48, 48), seed=0)
        >>> model = LatentVAR(order=2, window=32).fit(session)
        >>> model.score_frames(session).columns.tolist()
        ['run', 'condition', 'n_frames', 'forecast_explained', 'ceiling_explained']
        """
        network, prepared = self._fitted_network(), self._prepare_new(session)
        rows = []
        for run, (latent, fit) in enumerate(self._forecast_runs(prepared)):
            true = latent[self.var_.order :].masked_fill(fit.forecast.isnan(), float("nan"))
            about = session.runs[run]
            rows.append(
                {
                    "run": about.name,
                    "condition": about.condition,
                    "n_frames": about.n_frames,
                    "forecast_explained": explain_frames(network, prepared, run, fit.forecast, self.settings.window),
                    "ceiling_explained": explain_frames(network, prepared, run, true, self.settings.window),
                }
            )
        return pd.DataFrame(rows)

    def _forecast_runs(self, prepared: PreparedSession) -> Iterator[tuple[Tensor, VARFit]]:
        """Yield latents and forecasts of each run, by its own coefficients or by those of its condition in the fit."""
        shared = self._shared_by_fit(prepared.session)
        for run, about in enumerate(prepared.session):
            latent = encode_run(self.network_, prepared, run, self.settings.window)
            missing = latent.isnan().any(1)
            with torch.no_grad():
                if shared is None:
                    fit = self.var_(latent, missing)
                else:
                    fit = self.var_.apply_coef(shared[about.condition].whole, latent, missing)
            yield latent, fit

    def save(self, folder: str | Path) -> Path:
        """Write the result folder; among several processes, the first one does."""
        if not is_first():
            return Path(folder)
        state = self._fitted_network().state_dict()
        weights = {name: value.cpu().contiguous().numpy() for name, value in state.items()}
        return write_result(
            Result(self.settings.as_dict(), self.provenance_, self.log_, weights, self.dataset_), folder
        )

    def _take(self, network: Network, preprocessing: Preprocessing) -> None:
        self.preprocessing_ = preprocessing
        self.network_ = network
        self.var_ = build_var(self.settings, network)

    def _fit_runs(
        self,
        prepared: PreparedSession,
        started: float,
        progress: bool,
        fabric: Fabric | None = None,
        latents: Sequence[Tensor] | None = None,
    ) -> None:
        """Fit and measure the VAR of each whole run with a trained network, for `fit` and `refit`."""
        session = prepared.session
        if latents is None:
            latents = self._encode(prepared, progress, fabric)
        self.choice_ = self.shared_choice_ = self.order_choice_ = None
        if self.settings.order == "auto":
            of_run = [run.condition for run in session] if self.settings.coefficients == "condition" else None
            self.order_choice_ = choose_order(self.var_, latents, of_run)
            self.var_ = self.var_.with_order(self.order_choice_.order)
        if self.settings.penalty == "auto":
            self.choice_ = self._choose_penalty(latents, None, progress)
            self.var_.penalty = self.choice_.penalty
        evaluations = self._evaluate(prepared, latents, None, progress, fabric)
        conditions = [run.condition for run in session]
        # one clip a condition: they are for looking at, and large
        shown = [conditions.index(name) for name in dict.fromkeys(conditions)]
        tried = chosen_runs(conditions)
        curves = spread(
            partial(trace_penalties, self.var_),
            [torch.from_numpy(evaluations[run].latent) for run in tried],
            "Trying other penalties",
            progress,
            fabric,
        )
        dataset = build_dataset(
            prepared,
            self.mean_frame_,
            self.network_.positions,
            evaluations,
            {run: clip_run(self.network_, prepared, run, evaluations[run], self.settings) for run in shown},
            dict(zip(tried, curves, strict=True)),
            self.penalty_,
            {"": self.choice_, SHARED: self.shared_choice_},
            self.order_choice_,
        )
        self._show(dataset)
        add_couplings(dataset, tabulate_couplings(self.var_, self.latents_, conditions, self.coef_))
        if self.settings.latents == "cells":
            if hasattr(session, "truth"):  # simulated
                add_truth(dataset, session.truth, self.footprints_)
            add_footprints(dataset, self.footprints_, self.network_.state_dict()["diameter"].item())
        add_maps(dataset, self._map(prepared, range(len(session)), progress, fabric))
        self._session = session
        self.provenance_ = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started, 1),
            "command": sys.argv,
            "simulated": session.simulated,
            "inputs": describe_inputs(path for run in session for path in run.files),
            "seed": self.settings.seed,
            "versions": describe_versions(),
            "git": git_commit(),
            "threads": torch.get_num_threads(),
            "processes": 1 if fabric is None else fabric.world_size,
        }

    def _show(self, dataset: xr.Dataset) -> None:
        """Make the dataset of a fit this model's own, and show its parts."""
        self.dataset_ = dataset
        self.choice_, self.shared_choice_ = choice_of(dataset), choice_of(dataset, SHARED)
        self.order_choice_ = order_choice_of(dataset)
        self.runs_, self.scores_, self.coef_ = runs_of(dataset), scores_of(dataset), coefficients_of(dataset)
        self.latents_, self.forecasts_ = series_of(dataset)
        self.crop_offset_, self.simulated_ = crop_offset_of(dataset), bool(dataset.attrs["simulated"])

    def _require_fitted_frames(self, prepared: PreparedSession) -> None:
        """Raise unless the kept frame of each run is at its place in the session."""
        examples = self.dataset_["example_frame"].to_numpy().tolist(), self.dataset_["example_observed"].to_numpy()
        for run, (frame, image) in enumerate(zip(*examples, strict=True)):
            about, n_frames = prepared.session.runs[run], len(self.latents_[run])
            if about.n_frames != n_frames:
                raise LarscopeError(
                    f"`session` must be the fitted session: {about.label} had {n_frames} frames then, and has "
                    f"{about.n_frames} now. Pass the fitted one."
                )
            if not np.allclose(prepared.frames(run, frame, frame + 1)[0], image, atol=1e-6):
                raise LarscopeError(
                    f"`session` must be the fitted session: frame {frame} of {about.label} is different. Pass the "
                    "fitted one, or `fit` this one."
                )

    def _encode(self, prepared: PreparedSession, progress: bool, fabric: Fabric | None = None) -> list[Tensor]:
        encode = partial(encode_run, self.network_, run=0, window=self.settings.window)
        return spread(encode, list(prepared.each_run()), "Encoding", progress, fabric)

    def _choose_penalty(
        self, latents: Sequence[Tensor], conditions: Sequence[str] | None, progress: bool
    ) -> PenaltyChoice:
        """Return the best penalty for held-out frames: of single runs, or of each condition together."""
        with Progress(disable=not progress) as bar:
            task = bar.add_task("Choosing the penalty", total=None)

            def show(n_left: int) -> None:
                done = bar.tasks[task].completed + 1
                bar.update(task, completed=done, total=done + n_left)

            return choose_penalty(self.var_, latents, conditions, on_fit=show)

    def _share(
        self, latents: Sequence[Tensor], conditions: Sequence[str], progress: bool
    ) -> dict[str, SharedCoefficients]:
        """Fit each condition's coefficients to all of its runs, with a penalty of their own unless it is given.

        Among more frames more couplings stand out from chance, so what suits one run is too strict for all together.
        """
        var = self.var_
        if self.settings.penalty in (None, "auto"):
            if self.shared_choice_ is None:
                self.shared_choice_ = self._choose_penalty(latents, conditions, progress)
            var = copy.copy(var)
            var.penalty = self.shared_choice_.penalty
        return share_coefficients(var, latents, conditions)

    def _evaluate(
        self,
        prepared: PreparedSession,
        latents: Sequence[Tensor],
        shared: Mapping[str, SharedCoefficients] | None,
        progress: bool,
        fabric: Fabric | None = None,
    ) -> list[RunEvaluation]:
        """Evaluate every run; shared coefficients come from these runs unless given."""
        network, var, settings = self.network_, self.var_, self.settings
        conditions = [run.condition for run in prepared.session]
        if shared is None and self.settings.coefficients == "condition":
            shared = self._share(latents, conditions, progress)
        of_run = [None if shared is None else shared[condition] for condition in conditions]
        return spread(
            lambda one: evaluate_run(network, var, one[0], 0, settings, *one[1:]),
            list(zip(prepared.each_run(), latents, of_run, strict=True)),
            "Fitting each run's VAR",
            progress,
            fabric,
        )

    def _shared_by_fit(self, session: Session) -> dict[str, SharedCoefficients] | None:
        """Return the fitted coefficients of each run's condition."""
        if self.settings.coefficients == "run":
            return None
        for run in session:
            self._runs_of(run.condition)
        latents = [torch.from_numpy(latent) for latent in self.latents_]
        shared = self._share(latents, self.runs_["condition"].tolist(), progress=False)
        return {name: SharedCoefficients(coefs.whole, coefs.whole) for name, coefs in shared.items()}


def load(folder: str | Path) -> LatentVAR:
    """Read a result folder back into a fitted `LatentVAR`.

    Raises
    ------
    LarscopeError
        The folder is missing, incomplete, or written by a newer version.
    """
    result = read_result(folder)
    dataset = result.dataset
    dataset.attrs.setdefault("penalty", result.penalty)  # results of earlier versions have the setting alone
    model = LatentVAR(**result.settings)
    weights = {name: torch.from_numpy(value) for name, value in result.weights.items()}
    network = restore_network(model.settings, dataset["mean_frame"].to_numpy(), weights)
    model._take(network, preprocessing_of(dataset))
    model.var_ = model.var_.with_order(int(dataset.attrs["order"]))
    model.var_.penalty = result.penalty
    model.log_ = result.log
    model.provenance_ = dict(result.provenance)
    model._show(dataset)
    return model
