"""`LatentVAR`: fit, transform, forecast, score, save. It wires the parts together and computes nothing itself."""

import inspect
import math
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import ValidationError
from rich.progress import Progress, track

from larscope.comparison import (
    Comparison,
    ComparisonWarning,
    Contrast,
    coefficient_swap_test,
    correct_contrasts,
    equally_long,
    influence_test,
)
from larscope.errors import LarscopeError, suggest
from larscope.evaluation import (
    Clip,
    RunEvaluation,
    SharedCoefficients,
    bright_direction,
    clip_run,
    decode_run,
    encode_run,
    evaluate_run,
    explain_frames,
    map_run,
    share_coefficients,
)
from larscope.groups import Groups, group_members, groups_by
from larscope.influence import EdgeDifferences, difference_map, edge_differences, latent_positions
from larscope.network import Autoencoder
from larscope.penalties import PenaltyCurve, chosen_runs, trace_penalties
from larscope.permutation import MaxT
from larscope.preflight import estimate_fit
from larscope.preprocessing import PreparedSession, Preprocessing, prepare
from larscope.provenance import describe_inputs, describe_versions, git_commit
from larscope.record import ComparisonRecord, build_record
from larscope.result import Result, build_dataset, read_result, split_runs, write_result
from larscope.session import Session, require_frames
from larscope.settings import Settings, explain_validation, plain
from larscope.training import train
from larscope.var import HELD_OUT, SparseCoefficients, SparseVAR

Series = Float[NDArray[np.float32], "T K"]

RUN_COLUMNS = (
    "condition",
    "block",
    "subject",
    "start",
    "stop",
    "frame_rate",
    "pixel_size",
    "dataset",
    "channel",
    "plane",
)


class LatentVAR(Settings):
    """Sparse dynamics of the latents of a convolutional autoencoder, learned together (sec. 2).

    Takes every setting of `Settings` as a keyword, under the same name as `larscope fit` does.

    Attributes
    ----------
    coef_
        One sparse (order, K, K) a run: `coef_[i][k - 1, j, l]` is the effect of latent l on latent j at lag k. Each
        run's own, whatever `coefficients` says; forecasts and scores follow `coefficients`.
    scores_
        One row a run: `reconstruction_error`, `forecast_error` (mean squared, [0, 1] units), `var_error`,
        `var_explained`, `var_error_heldout`, `n_active`.
    latents_, forecasts_
        Series of each run, (T, K) and (T - order, K); NaN where frames were masked.
    contribution_maps_
        (runs, height, width): where in the image each run's couplings come from, in [0, 1] units.
    mean_frame_
        (height, width), in [0, 1].
    runs_
        The session's table.
    log_
        One row a training step.
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
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # one epoch is far too short a training
    ...     model = LatentVAR(order=2, window=32, epochs=1).fit(session)
    >>> model.coef_[0].shape
    (2, 36, 36)
    """

    __signature__ = inspect.signature(Settings)

    coef_: SparseCoefficients
    scores_: pd.DataFrame
    latents_: list[Series]
    forecasts_: list[Series]
    contribution_maps_: Float[NDArray[np.float32], "runs height width"]
    runs_: pd.DataFrame
    log_: list[dict[str, Any]]
    network_: Autoencoder
    var_: SparseVAR
    preprocessing_: Preprocessing
    crop_offset_: tuple[int, int]
    provenance_: dict[str, Any]
    simulated_: bool

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise explain_validation(error) from None

    @property
    def mean_frame_(self) -> Float[NDArray[np.float32], "height width"]:
        """Mean over runs of each run's mean over time."""
        return self._fitted_network().mean_frame.cpu().numpy()

    def fit(
        self,
        session: Session,
        *,
        progress: bool = False,
        checkpoints: str | Path | None = None,
        cache: str | Path | None = None,
        max_memory: int | None = None,
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
            Bytes of resident memory that the process should stay below (see `larscope.preflight.estimate_fit`).

        Raises
        ------
        LarscopeError
            A run is too short, a frame cannot be used, or the fit needs more than `max_memory`.
        """
        started = time.monotonic()
        keep_memory = estimate_fit(self, session, cached=cache is not None).may_keep_memory(max_memory)
        prepared = _prepare(
            session,
            progress,
            crop=self.crop,
            downscale=self.downscale,
            nan=self.nan,
            cache=Path(cache) if cache else None,
        )
        self._build(prepared.preprocessing, prepared.mean_frame())
        self.log_ = train(
            self.network_,
            self.var_,
            prepared,
            self,
            Path(checkpoints) if checkpoints else None,
            progress,
            keep_memory,
        )
        evaluations = self._evaluate(prepared, None, progress)
        self.crop_offset_ = prepared.preprocessing.offset(session.frame_shape)
        self.runs_ = _run_table(session)
        self.scores_ = _score_table(session, evaluations)
        self.latents_ = [evaluation.latent for evaluation in evaluations]
        self.forecasts_ = [evaluation.forecast for evaluation in evaluations]
        self.coef_ = SparseCoefficients.join([evaluation.coef for evaluation in evaluations])
        self._examples = _stack_examples(evaluations)
        conditions = [run.condition for run in session]
        # one clip a condition: they are for looking at, and large
        shown = [conditions.index(name) for name in dict.fromkeys(conditions)]
        self._clips = _join_clips(
            {run: clip_run(self.network_, prepared, run, evaluations[run], self) for run in shown}
        )
        self._curves = _stack_curves(
            {
                run: trace_penalties(self.var_, torch.from_numpy(self.latents_[run]))
                for run in track(chosen_runs(conditions), "Trying other penalties", disable=not progress)
            }
        )
        self.contribution_maps_ = self._map(prepared, range(len(session)), progress)
        self._session = session
        self.simulated_ = session.simulated
        self.provenance_ = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started, 1),
            "command": sys.argv,
            "simulated": session.simulated,
            "inputs": describe_inputs(path for run in session for path in run.files),
            "seed": self.seed,
            "versions": describe_versions(),
            "git": git_commit(),
            "threads": torch.get_num_threads(),
        }
        return self

    def transform(self, session: Session) -> list[Series]:
        """Return the latent series of each run of a session, seen or not, (T, K) each."""
        network, prepared = self._fitted_network(), self._prepare_new(session)
        return [encode_run(network, prepared, run, self.window).cpu().numpy() for run in range(len(session))]

    def forecast(self, session: Session) -> list[Float[NDArray[np.float32], "n height width"]]:
        """Return the one-step-ahead forecasts of frames order .. T - 1 of each run, in the session's [0, 1].

        Each run's coefficients are fitted to its own latents, or with `coefficients="condition"`, are those of its
        condition in the session of the fit. A frame that is masked, or preceded by a masked one within `order`, is NaN.
        """
        network, prepared = self._fitted_network(), self._prepare_new(session)
        shared = self._shared_by_fit(session)
        lag = 1 if self.pooling == "previous" else 0
        forecasts = []
        for run in range(len(session)):
            latent = encode_run(network, prepared, run, self.window)
            missing = latent.isnan().any(1)
            with torch.no_grad():
                if shared is None:
                    fit = self.var_(latent, missing)
                else:
                    fit = self.var_.apply_coef(shared[session.runs[run].condition].whole, latent, missing)
            forecast = np.full((len(fit.forecast), *self.mean_frame_.shape), np.nan, np.float32)
            for start, images in decode_run(network, prepared, run, fit.forecast, self.window, lag):
                forecast[start - self.order : start - self.order + len(images)] = images.cpu().numpy()
            forecasts.append(forecast)
        return forecasts

    def score(self, session: Session) -> pd.DataFrame:
        """Return what `scores_` holds, for a session that the network has or has not seen, and how much of its movie.

        With `coefficients="condition"`, the coefficients are those of the session of the fit: `var_error_heldout` then
        is of runs, not of parts of runs, that they have not seen. Two more columns are in pixels, and comparable with
        any other method: `forecast_explained`, the share of the movie that one-step-ahead forecasts explain, and
        `ceiling_explained`, the same with the true latents decoded. Pooling indices are those of the frame before.
        """
        network = self._fitted_network()
        needed = math.ceil((self.order + 1) / (1 - HELD_OUT)) + 1
        require_frames(session, needed, f"order {self.order}, fitted to the first {1 - HELD_OUT:.0%} of a run")
        prepared = self._prepare_new(session)
        evaluations = self._evaluate(prepared, self._shared_by_fit(session), progress=False)
        table = _score_table(session, evaluations)
        series = {
            "forecast_explained": [evaluation.forecast for evaluation in evaluations],
            "ceiling_explained": [
                np.where(np.isnan(evaluation.forecast), np.float32(np.nan), evaluation.latent[self.order :])
                for evaluation in evaluations
            ],
        }
        for name, decoded in series.items():
            table[name] = [
                explain_frames(network, prepared, run, torch.from_numpy(one).to(network.mean_frame), self.window)
                for run, one in enumerate(decoded)
            ]
        return table

    def compare(
        self,
        first: str,
        second: str,
        *,
        test: Literal["swap", "influence"] = "swap",
        relative: bool = True,
        direction: Literal["outflow", "inflow"] = "outflow",
        by: str = "condition",
        groups: Groups | None = None,
        n_permutations: int = 9999,
        seed: int = 0,
    ) -> Comparison:
        """Test whether two conditions differ in their dynamics (sec. 2.3, 2.4).

        Runs of different lengths are first fitted and measured anew on as many frames as the shortest has.

        Parameters
        ----------
        first, second
            Conditions, or names from `groups`. `block` and `subject` of the session table say which labels may be
            permuted.
        test
            `"swap"`: `coefficient_swap_test`. `"influence"`: `influence_test`.
        relative
            For the swap test: False for the paper's raw Deltas.
        direction
            For the influence test.
        by
            The column whose values `first` and `second` are. When blocks (or subjects) themselves are compared, they
            no longer say which labels may be permuted.
        groups
            More groups by name, each True for its runs, such as `larscope.groups.select_runs` makes.
        n_permutations, seed
            Of the permutations, where there are too many to enumerate.

        Raises
        ------
        LarscopeError
            A group is unknown, both are the same or share runs, or none has two runs.
        """
        runs, label, design = self._two_groups(first, second, by, groups)
        latents, coefs = self._equally_fitted(runs)
        how: dict[str, Any] = {**design, "n_permutations": n_permutations, "seed": seed}
        if test == "influence":
            return influence_test(coefs, label, direction=direction, **how)
        return coefficient_swap_test(
            latents, coefs, label, relative=relative, center=self.center, scale=self.scale, **how
        )

    def comparison_table(self, *, by: str = "condition", groups: Groups | None = None, **how: Any) -> list[Contrast]:
        """Compare every two groups, as the paper's tables do, and correct the p-values for their number.

        Parameters
        ----------
        by
            Column of the session table whose values are the groups, where `groups` is left out.
        groups
            For each group's name, which runs are in it. Groups that share runs are not compared with each other.
        how
            `test`, `relative`, `direction`, `n_permutations`, `seed`: see `compare`.

        Raises
        ------
        LarscopeError
            There are no two groups without common runs.

        Examples
        --------
        >>> from larscope import simulate_session
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")  # a short training, and two runs a group
        ...     session = simulate_session(n_runs=4, n_frames=80, frame_shape=(48, 48), seed=0)
        ...     model = LatentVAR(order=2, window=32, epochs=1).fit(session)
        ...     [row] = model.comparison_table()
        >>> row.first, row.second, round(row.pvalue_holm, 3) >= 0.333
        ('familiar', 'novel', True)
        """
        chosen = groups_by(self.runs_, by) if groups is None else groups
        apart = [
            (first, second)
            for first, second in combinations(chosen, 2)
            if not np.any(np.logical_and(chosen[first], chosen[second]))
        ]
        return correct_contrasts({pair: self.compare(*pair, by=by, groups=groups, **how) for pair in apart})

    def difference_map(
        self,
        first: str,
        second: str,
        *,
        by: str = "condition",
        groups: Groups | None = None,
        n_permutations: int = 9999,
        seed: int = 0,
        session: Session | None = None,
        **how: Any,
    ) -> MaxT:
        """Return the mean contribution map of one condition minus that of another, and where it is significant.

        `difference` is in units of [0, 1] frames; `pvalue <= 0.05` is the significance mask, corrected for the number
        of pixels by max-T over the same restricted permutations as `compare` (`larscope.permutation.max_t`).

        Parameters
        ----------
        first, second, by, groups, n_permutations, seed
            As in `compare`.
        session
            The session of the fit, needed after `larscope.load` for other than the default maps.
        how
            `direction`, `gain`, `exclude_radius`, `preset`: see `contribution_map`.

        Raises
        ------
        LarscopeError
            As `compare` and `contribution_map`.

        Warns
        -----
        ComparisonWarning
            Runs differ in length by condition and the session is not at hand, so that the maps cannot be made anew
            from as many frames of every run.
        """
        runs, label, design = self._two_groups(first, second, by, groups)
        maps = self._equal_length_maps(runs, label, session, how)
        return difference_map(maps, label, **design, n_permutations=n_permutations, seed=seed)

    def edge_differences(
        self,
        first: str,
        second: str,
        *,
        by: str = "condition",
        groups: Groups | None = None,
        n_permutations: int = 9999,
        seed: int = 0,
        min_runs: int = 2,
    ) -> EdgeDifferences:
        """Test each coefficient for a difference, first minus second, corrected for their number by max-T.

        Every run's coefficients are those of as many frames as the shortest has.

        Parameters
        ----------
        first, second, by, groups, n_permutations, seed
            As in `compare`.
        min_runs
            Test only coefficients that are non-zero in at least this many runs.

        Returns
        -------
        EdgeDifferences
            Each edge named by row and column of its two latents in the image, in input pixels.

        Raises
        ------
        LarscopeError
            As `compare`.
        """
        network = self._fitted_network()
        runs, label, design = self._two_groups(first, second, by, groups)
        return edge_differences(
            self._equally_fitted(runs)[1],
            label,
            network.latent_shape,
            self.preprocessing_.crop,
            **design,
            offset=self.crop_offset_,
            n_permutations=n_permutations,
            seed=seed,
            min_runs=min_runs,
        )

    def record_comparison(
        self,
        first: str,
        second: str,
        *,
        by: str = "condition",
        groups: Groups | None = None,
        relative: bool = True,
        n_permutations: int = 9999,
        seed: int = 0,
    ) -> ComparisonRecord:
        """Compare two conditions in every way: both tests, the difference map and each edge.

        Parameters as in `compare`. `larscope.record.write_record` puts the outcome into a result folder. What limits
        the comparison is in the record, and not warned of.
        """
        which: dict[str, Any] = {"by": by, "groups": groups}
        how: dict[str, Any] = {"n_permutations": n_permutations, "seed": seed}
        runs, label, design = self._two_groups(first, second, by, groups)
        inside = {group: [i for i, at in enumerate(label) if at == group] for group in (first, second)}
        names = self.runs_["run"].iloc[runs].tolist()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ComparisonWarning)
            maps = self._equal_length_maps(runs, label, None, {})
        limits = [str(warning.message) for warning in caught]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ComparisonWarning)  # they are in the tests' own `warnings`
            tests = {
                "swap": self.compare(first, second, relative=relative, **which, **how),
                "influence": self.compare(first, second, test="influence", **which, **how),
            }
        rows, columns = self._pixel_positions()
        return build_record(
            first=first,
            second=second,
            runs={group: [names[i] for i in members] for group, members in inside.items()},
            tests=tests,
            maps={group: maps[members].mean(0) for group, members in inside.items()},
            difference=difference_map(maps, label, **design, **how),
            edges=self.edge_differences(first, second, **which, **how),
            mean_frame=self.mean_frame_,
            rows=rows,
            columns=columns,
            simulated=self.simulated_,
            options={"by": by, "relative": relative, **how},
            warnings=limits,
        )

    def contribution_map(
        self,
        condition: str,
        *,
        direction: Literal["outflow", "inflow"] = "outflow",
        gain: float = 1.0,
        exclude_radius: float = 0.0,
        preset: Literal["default", "paper"] = "default",
        session: Session | None = None,
    ) -> Float[NDArray[np.float32], "height width"]:
        """Return where in the image the couplings of a condition come from: the mean over its runs (sec. 2.4).

        Parameters
        ----------
        condition
            Experimental group.
        direction
            `"outflow"`: what a place does to others. `"inflow"`: what others do to it.
        gain
            Standard deviations that a latent of influence 1 is moved; the map should look alike at half of it.
        exclude_radius
            Leave out couplings between latents at most this far apart (latent pixels): one cell over two latents
            looks like a coupling.
        preset
            `"paper"` is the printed formula (with `direction="inflow"` to the letter).
        session
            The session of the fit. Only needed for other than the default options after `larscope.load`, since a
            result folder holds no frames to take pooling indices from.

        Returns
        -------
        Array
            In units of [0, 1] frames: what the influence adds to the mean frame.
        """
        self._fitted_network()
        runs = self._runs_of(condition)
        if (direction, gain, exclude_radius, preset) == ("outflow", 1.0, 0.0, "default"):
            stored: Float[NDArray[np.float32], "height width"] = self.contribution_maps_[runs].mean(0)
            return stored
        maps = self._map(
            self._prepare_new(self._known_session(session)),
            runs,
            direction=direction,
            gain=gain,
            exclude_radius=exclude_radius,
            preset=preset,
        )
        mean: Float[NDArray[np.float32], "height width"] = maps.mean(0)
        return mean

    def _equal_length_maps(
        self, runs: Sequence[int], label: Sequence[str], session: Session | None, how: Mapping[str, Any]
    ) -> Float[NDArray[np.float32], "runs height width"]:
        """Return a map a run, of coefficients fitted on as many frames of every run where the frames are at hand."""
        lengths = np.array([np.isfinite(self.latents_[run]).all(axis=1).sum() for run in runs])
        at_hand = session is not None or hasattr(self, "_session")
        if not how and (np.ptp(lengths) == 0 or not at_hand):
            first = np.array(label) == label[0]
            if not 1 / 1.05 < lengths[first].mean() / lengths[~first].mean() < 1.05:
                warnings.warn(
                    "Runs differ in length by condition, and maps of coefficients fitted on more frames differ from "
                    "those on fewer. Pass `session` to `difference_map`, which then maps the same number of frames.",
                    ComparisonWarning,
                    stacklevel=3,
                )
            stored: Float[NDArray[np.float32], "runs height width"] = self.contribution_maps_[runs]
            return stored
        prepared = self._prepare_new(self._known_session(session))
        coefs = dict(zip(runs, self._equally_fitted(runs)[1], strict=True))
        return self._map(prepared, runs, coefs=coefs, **how)

    def _known_session(self, session: Session | None) -> Session:
        """Return the session of the fit, or raise: its frames have the pooling indices that a map is decoded with."""
        session = session if session is not None else getattr(self, "_session", None)
        if session is None:
            raise LarscopeError(
                "Another map than the stored one needs the frames of the session: got none, since this model was "
                "loaded. Pass `session=read_session(...)`."
            )
        if [run.name for run in session] != self.runs_["run"].tolist():
            raise LarscopeError("`session` must be the one that was fitted: its runs are others. Pass that session.")
        return session

    def _map(
        self,
        prepared: PreparedSession,
        runs: Iterable[int],
        progress: bool = False,
        *,
        coefs: Mapping[int, Any] | None = None,
        **how: Any,
    ) -> Float[NDArray[np.float32], "runs height width"]:
        network, var = self.network_, self.var_
        sign = bright_direction(network, var, prepared, self.latents_, self.window)
        used = self.coef_ if coefs is None else coefs
        return np.stack(
            [
                map_run(network, var, prepared, run, self.latents_[run], used[run], sign, self.window, **how)
                for run in track(list(runs), "Mapping contributions", disable=not progress)
            ]
        )

    def _equally_fitted(self, runs: Sequence[int]) -> tuple[list[Series], list[Float[NDArray[Any], "order K K"]]]:
        """Return each run's latents, as many frames as the shortest run has, and the coefficients of those frames."""
        latents = equally_long([self.latents_[run] for run in runs])
        coefs = []
        for run, latent in zip(runs, latents, strict=True):
            if len(latent) == len(self.latents_[run]):
                coefs.append(self.coef_[run])
                continue
            with torch.no_grad():
                series = torch.from_numpy(latent)
                coefs.append(self.var_(series, series.isnan().all(1)).coef.numpy())
        return latents, coefs

    def _two_groups(
        self, first: str, second: str, by: str, groups: Groups | None
    ) -> tuple[list[int], list[str], dict[str, Any]]:
        """Return the runs of two groups, the first's first; the group of each; and their blocks and subjects."""
        self._fitted_network()
        named = dict(groups or {})
        known: Groups = {**groups_by(self.runs_, by), **named} if {first, second} - set(named) else named
        runs, label = group_members(known, first, second, len(self.runs_), noun=by)
        table = self.runs_.iloc[runs]
        compared = by if {first, second}.isdisjoint(named) else None
        design = {
            name: None if name == compared or table[name].isna().all() else table[name].tolist()
            for name in ("block", "subject")
        }
        return runs.tolist(), label, design

    def _runs_of(self, condition: str) -> list[int]:
        known = list(dict.fromkeys(self.runs_["condition"]))
        if condition not in known:
            raise LarscopeError(f"Unknown condition {condition!r}. {suggest(condition, known)}")
        return [run for run, name in enumerate(self.runs_["condition"]) if name == condition]

    def _pixel_positions(self) -> tuple[Float[NDArray[np.float64], " height"], Float[NDArray[np.float64], " width"]]:
        """Return row and column, in input pixels, of the centre of each row and column of the preprocessed frame."""
        shape, crop, offset = self.mean_frame_.shape, self.preprocessing_.crop, self.crop_offset_
        centres = latent_positions((shape[0], shape[1]), crop, offset).reshape(*shape, 2)
        return centres[:, 0, 0], centres[0, :, 1]

    def save(self, folder: str | Path) -> Path:
        """Write the result folder (see `larscope.result`)."""
        state = self._fitted_network().state_dict()
        weights = {name: value.cpu().contiguous().numpy() for name, value in state.items()}
        dataset = build_dataset(
            runs=self.runs_,
            scores=self.scores_,
            latents=self.latents_,
            forecasts=self.forecasts_,
            coef_shape=self.coef_.shape,
            coef_index=self.coef_.nonzero,
            coef_value=self.coef_.value,
            mean_frame=self.mean_frame_,
            examples=self._examples,
            clips=self._clips,
            curves=self._curves,
            contribution_maps=self.contribution_maps_,
            preprocessing=self.preprocessing_,
            crop_offset=self.crop_offset_,
            simulated=self.simulated_,
        )
        return write_result(Result(plain(self), self.provenance_, self.log_, weights, dataset), folder)

    def _build(self, preprocessing: Preprocessing, mean_frame: NDArray[np.float32]) -> None:
        self.preprocessing_ = preprocessing
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network_ = Autoencoder(
                torch.from_numpy(mean_frame), skip=self.skip, output=self.output, batch_norm=self.batch_norm
            )
        self.var_ = SparseVAR(
            self.order,
            self.penalty,
            penalty_scale=self.penalty_scale,
            center=self.center,
            scale=self.scale,
            own_weight=self.own_weight,
            max_distance=self.max_distance,
            latent_shape=self.network_.latent_shape,
        )

    def _evaluate(
        self, prepared: PreparedSession, shared: Mapping[str, SharedCoefficients] | None, progress: bool
    ) -> list[RunEvaluation]:
        """Evaluate every run; coefficients that are shared come from these runs unless they are given."""
        network, conditions = self.network_, [run.condition for run in prepared.session]
        latents = [
            encode_run(network, prepared, run, self.window)
            for run in track(range(len(prepared.runs)), "Encoding", disable=not progress)
        ]
        if shared is None and self.coefficients == "condition":
            shared = share_coefficients(self.var_, latents, conditions)
        runs = track(range(len(prepared.runs)), "Fitting each run's VAR", disable=not progress)
        of_run = [None if shared is None else shared[condition] for condition in conditions]
        return [evaluate_run(network, self.var_, prepared, run, self, latents[run], of_run[run]) for run in runs]

    def _shared_by_fit(self, session: Session) -> dict[str, SharedCoefficients] | None:
        """Return the coefficients of the fit that runs of a session share with those of their condition there."""
        if self.coefficients == "run":
            return None
        for run in session:
            self._runs_of(run.condition)
        latents = [torch.from_numpy(latent) for latent in self.latents_]
        shared = share_coefficients(self.var_, latents, self.runs_["condition"].tolist())
        return {name: SharedCoefficients(coefs.whole, coefs.whole) for name, coefs in shared.items()}

    def _prepare_new(self, session: Session) -> PreparedSession:
        require_frames(session, self.order + 2, f"order {self.order} and two to forecast")
        return _prepare(session, progress=False, preprocessing=self.preprocessing_, nan=self.nan)

    def _fitted_network(self) -> Autoencoder:
        if not hasattr(self, "network_"):
            raise LarscopeError("This LatentVAR is not fitted yet: call `fit(session)` first, or `larscope.load`.")
        return self.network_


def load(folder: str | Path) -> LatentVAR:
    """Read a result folder back into a fitted `LatentVAR`.

    Raises
    ------
    LarscopeError
        The folder is missing, incomplete, or written by a newer version.
    """
    result = read_result(folder)
    dataset = result.dataset
    model = LatentVAR(**result.settings)
    model._build(
        Preprocessing(
            (int(dataset.attrs["crop"][0]), int(dataset.attrs["crop"][1])),
            int(dataset.attrs["downscale"]),
            float(dataset.attrs["intensity_low"]),
            float(dataset.attrs["intensity_high"]),
        ),
        dataset["mean_frame"].to_numpy(),
    )
    model.network_.load_state_dict({name: torch.from_numpy(value) for name, value in result.weights.items()})
    model.network_.eval()
    model.crop_offset_ = (int(dataset.attrs["crop_offset"][0]), int(dataset.attrs["crop_offset"][1]))
    model.log_ = result.log
    model.provenance_ = dict(result.provenance)
    model.simulated_ = bool(dataset.attrs["simulated"])
    model.runs_ = _columns(dataset, [name for name in ("run", *RUN_COLUMNS, "path", "n_frames") if name in dataset])
    score_names = [name for name in SCORE_NAMES if name in dataset]
    model.scores_ = _columns(dataset, ["run", "condition", "n_frames", *score_names])
    lengths = dataset["n_frames"].to_numpy()
    model.latents_ = split_runs(dataset["latent_series"].to_numpy(), lengths)
    model.forecasts_ = split_runs(dataset["forecast_series"].to_numpy(), lengths - model.order)
    n_latents = dataset.sizes["latent"]
    index = np.stack([dataset[f"coef_{name}"].to_numpy() for name in ("run", "lag", "target", "source")])
    index[1] -= 1
    model.coef_ = SparseCoefficients(
        (len(lengths), model.order, n_latents, n_latents), index, dataset["coef"].to_numpy()
    )
    model.contribution_maps_ = dataset["contribution_map"].to_numpy()
    model._examples = {f"example_{name}": dataset[f"example_{name}"].to_numpy() for name in EXAMPLE_NAMES}
    # results of earlier versions have none of these
    model._clips = {name: dataset[name].to_numpy() for name in CLIP_NAMES if name in dataset}
    model._curves = {name: dataset[name].to_numpy() for name in CURVE_NAMES if name in dataset}
    return model


SCORE_NAMES = (
    "reconstruction_error",
    "forecast_error",
    "var_error",
    "var_explained",
    "var_error_heldout",
    "n_active",
)

EXAMPLE_NAMES = ("frame", "observed", "reconstruction", "forecast")


CLIP_NAMES = tuple(f"clip_{name}" for name in ("run", "frame", "observed", "reconstruction"))

CURVE_NAMES = ("penalty", *(f"curve_{name}" for name in ("run", "n_active", "explained", "explained_heldout")))


def _prepare(session: Session, progress: bool, **how: Any) -> PreparedSession:
    with Progress(disable=not progress) as bar:
        task = bar.add_task("Reading", total=sum(run.n_frames for run in session))
        return prepare(session, on_frames=lambda n_frames: bar.advance(task, n_frames), **how)


def _run_table(session: Session) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "run": run.name,
                **{name: getattr(run, name) for name in RUN_COLUMNS},
                "path": None if run.path is None else str(run.path),
                "n_frames": run.n_frames,
            }
            for run in session
        ]
    )


def _score_table(session: Session, evaluations: Sequence[RunEvaluation]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"run": run.name, "condition": run.condition, "n_frames": run.n_frames, **evaluation.scores}
            for run, evaluation in zip(session, evaluations, strict=True)
        ]
    )


def _stack_examples(evaluations: Sequence[RunEvaluation]) -> dict[str, NDArray[Any]]:
    return {f"example_{name}": np.stack([getattr(e.example, name) for e in evaluations]) for name in EXAMPLE_NAMES}


def _join_clips(clips: Mapping[int, Clip]) -> dict[str, NDArray[Any]]:
    run = np.concatenate([np.full(len(clip.frame), run) for run, clip in clips.items()])
    parts = {name: np.concatenate([getattr(clip, name) for clip in clips.values()]) for name in Clip.__annotations__}
    return {"clip_run": run, **{f"clip_{name}": part for name, part in parts.items()}}


def _stack_curves(curves: Mapping[int, PenaltyCurve]) -> dict[str, NDArray[Any]]:
    penalty = next(iter(curves.values())).penalty
    names = ("n_active", "explained", "explained_heldout")
    stacked = {f"curve_{name}": np.array([getattr(curve, name) for curve in curves.values()]) for name in names}
    return {"penalty": np.array(penalty), "curve_run": np.array(list(curves)), **stacked}


def _columns(dataset: Any, names: Sequence[str]) -> pd.DataFrame:
    table = pd.DataFrame({name: dataset[name].to_numpy() for name in names})
    return table.replace({"": None})
