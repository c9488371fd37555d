"""The comparisons of a fitted `LatentVAR`: tests, maps and edges."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from lightning.fabric import Fabric
from numpy.typing import NDArray

from larscope._compute.processes import spread
from larscope._dynamics.coefficients import SparseCoefficients
from larscope._dynamics.couplings import fit_couplings
from larscope._dynamics.var import SparseVAR
from larscope._errors import LarscopeError, suggest
from larscope._fit.comparing_couplings import compare_couplings
from larscope._fit.evaluation import RESPONSE_FRAMES, map_as_printed, respond
from larscope._fit.fitted import couplings_of
from larscope._fit.networks import Network
from larscope._fit.parameters import HasSettings
from larscope._movies.preprocessing import PreparedSession, Preprocessing, prepare_showing
from larscope._movies.session import Session, require_frames
from larscope._network.autoencoder import Autoencoder
from larscope._network.cells import CellNetwork
from larscope._results.comparison import ComparisonRecord, build_record
from larscope._settings import Preset
from larscope._statistics.comparison import Comparison, ComparisonWarning, warned
from larscope._statistics.contrasts import Contrast, correct_contrasts
from larscope._statistics.differences import EdgeDifferences, difference_map, edge_differences
from larscope._statistics.groups import Groups, group_members, groups_by
from larscope._statistics.influences import influence_test
from larscope._statistics.maps import contribution_map, footprint_map, influence, latent_positions
from larscope._statistics.permutation import MaxT
from larscope._statistics.pitfalls import condition_imbalances
from larscope._statistics.swap import coefficient_swap_test, equally_long

Series = Float[NDArray[np.float32], "T K"]


class ComparesConditions(HasSettings):
    """The comparing half of `LatentVAR`; the other half fits, and documents the attributes."""

    coef_: SparseCoefficients
    latents_: list[Series]
    dataset_: xr.Dataset
    runs_: pd.DataFrame
    network_: Network
    var_: SparseVAR
    preprocessing_: Preprocessing
    crop_offset_: tuple[int, int]
    simulated_: bool

    @property
    def mean_frame_(self) -> Float[NDArray[np.float32], "height width"]:
        """Mean over runs of each run's mean over time."""
        return self._fitted_network().mean_frame.cpu().numpy()

    @property
    def couplings_(self) -> pd.DataFrame:
        """The couplings of each condition, over all of its runs."""
        return couplings_of(self.dataset_)

    @property
    def contribution_maps_(self) -> Float[NDArray[np.float32], "runs height width"]:
        """Where in the image each run's couplings come from."""
        maps: Float[NDArray[np.float32], "runs height width"] = self.dataset_["contribution_map"].to_numpy()
        return maps

    def compare(
        self,
        first: str,
        second: str,
        *,
        test: Literal["coupling", "swap", "influence"] = "coupling",
        relative: bool = True,
        direction: Literal["outflow", "inflow"] = "outflow",
        by: str = "condition",
        groups: Groups | None = None,
        n_permutations: int = 9999,
        seed: int = 0,
        preset: Preset = "default",
    ) -> Comparison:
        """Test whether two conditions differ in their dynamics (sec. 2.3, 2.4).

        Runs of different lengths are first fitted and measured anew on as many frames as the shortest has.

        Parameters
        ----------
        first, second
            Conditions, or names from `groups`. `block` and `subject` of the session table decide the permutations.
        test
            `"coupling"`: whether couplings differ (`coupling_test`). The paper's two ask whether coefficients or
            activity do: `"swap"`, `coefficient_swap_test`, and `"influence"`, `influence_test`.
        relative
            For the swap test: False for the paper's raw Deltas.
        direction
            For the influence test.
        by
            The column whose values `first` and `second` are. If you compare blocks (or subjects) themselves, they no
            longer decide the permutations.
        groups
            More groups by name, each True for its runs, such as `larscope._statistics.groups.select_runs` makes.
        n_permutations, seed
            Of the permutations, where there are too many to enumerate.
        preset
            `"paper"`: the paper's two tests by its letter, with raw Deltas, influence as printed (`"inflow"`), and runs
            in their whole length.

        Raises
        ------
        LarscopeError
            A group is unknown, both are the same or share runs, or none has two runs.
        """
        runs, label, design = self._two_groups(first, second, by, groups)
        how: dict[str, Any] = {**design, "n_permutations": n_permutations, "seed": seed, "position": runs}
        if test == "coupling":
            return warned(compare_couplings(self.var_, [self.latents_[run] for run in runs], label, **how))
        latents, coefs = self._equally_fitted(runs)
        if preset == "paper":
            relative, direction = False, "inflow"
            latents = [self.latents_[run] for run in runs]
            coefs = SparseCoefficients.from_dense(self.coef_[run] for run in runs)
        if test == "influence":
            found = influence_test(coefs, label, direction=direction, **how)
            noticed = condition_imbalances(latents, label, **design)
            for message in noticed:
                warnings.warn(message, ComparisonWarning, stacklevel=2)
            return replace(found, warnings=found.warnings + noticed)
        return coefficient_swap_test(
            latents,
            coefs,
            label,
            relative=relative,
            center=self.settings.center,
            scale=self.settings.scale,
            equal_length=preset != "paper",
            **how,
        )

    def comparison_table(self, *, by: str = "condition", groups: Groups | None = None, **how: Any) -> list[Contrast]:
        """Compare every two groups, as the paper's tables do, and correct the p-values for their number.

        Parameters
        ----------
        by
            Column of the session table with the groups, if you leave `groups` out.
        groups
            The runs of each group, by name. Groups with shared runs are not compared with each other.
        how
            `test`, `relative`, `direction`, `n_permutations`, `seed`, `preset`: see `compare`.

        Raises
        ------
        LarscopeError
            There are no two groups without common runs.

        Examples
        --------
        >>> from larscope import LatentVAR, simulate_session
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")  # a short training, and two runs a group
        ...     session = simulate_session(n_runs=4, n_frames=80, frame_shape=(48, 48), seed=0)
        ...     model = LatentVAR(order=2, window=32).fit(session)
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
        """Return the difference of two conditions' mean contribution maps, with its significance.

        `difference` is first minus second, of influence, as the maps; `pvalue <= 0.05` is the significance mask,
        corrected for the number of pixels by max-T over the same restricted permutations as `compare`
        (`larscope._statistics.permutation.max_t`).

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

        Every run's coefficients come from as many frames as the shortest run has.

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
            network.latent_shape if isinstance(network, Autoencoder) else self._latent_places(),
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
        preset: Preset = "default",
    ) -> ComparisonRecord:
        """Compare two conditions in every way: all tests, the difference map and each edge.

        Parameters as in `compare`. `larscope._results.comparison.write_record` puts the outcome into a result folder.
        Its limits are in the record, without a warning.
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
                "coupling": self.compare(first, second, **which, **how),
                "swap": self.compare(first, second, test="swap", relative=relative, preset=preset, **which, **how),
                "influence": self.compare(first, second, test="influence", preset=preset, **which, **how),
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
            options={"by": by, "relative": relative and preset != "paper", "preset": preset, **how},
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
        """Return how strongly each place drives others in a condition: the mean map over its runs (sec. 2.4).

        Parameters
        ----------
        condition
            Experimental group.
        direction
            `"outflow"`: what a place does to others. `"inflow"`: what others do to it.
        gain
            Displacement of a latent, in standard deviations, to find its pixels in the decoder's image; with
            `preset="paper"`, a factor of the influence.
        exclude_radius
            Leave out couplings between latents at most this far apart (latent pixels): one cell over two latents
            looks like a coupling.
        preset
            `"default"`: influence from couplings between latents of unit variance, beyond chance in all runs together
            and measured in each, as a mean over the latents of a pixel. `"paper"`: `coef_`, and the printed formula of
            the map (the printed influence is `direction="inflow"`).
        session
            The session of the fit. Only needed for other than the default options after `larscope.load`, since a
            result folder holds no frames to take pooling indices from.

        Returns
        -------
        Array
            Influence: the sum of absolute couplings, without unit; with `preset="paper"`, in [0, 1] of the session.
        """
        self._fitted_network()
        runs = self._runs_of(condition)
        if (direction, gain, exclude_radius, preset) == ("outflow", 1.0, 0.0, "default"):
            stored: Float[NDArray[np.float32], "height width"] = self.contribution_maps_[runs].mean(0)
            return stored
        maps = self._map(
            self._frames_to_map(session),
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
        """Return a map of each run, from as many frames of every run if the frames are given."""
        lengths = np.array([np.isfinite(self.latents_[run]).all(axis=1).sum() for run in runs])
        at_hand = session is not None or hasattr(self, "_session") or isinstance(self.network_, CellNetwork)
        if not how and (np.ptp(lengths) == 0 or not at_hand):
            first = np.array(label) == label[0]
            if not 1 / 1.05 < lengths[first].mean() / lengths[~first].mean() < 1.05:
                warnings.warn(
                    "Runs differ in length by condition, and more frames give other coefficients and maps. Pass "
                    "`session` to `difference_map` to use the same number of frames in each run.",
                    ComparisonWarning,
                    stacklevel=3,
                )
            stored: Float[NDArray[np.float32], "runs height width"] = self.contribution_maps_[runs]
            return stored
        return self._map(self._frames_to_map(session), runs, equal_length=True, **how)

    def _frames_to_map(self, session: Session | None) -> PreparedSession | None:
        """Return the frames that a map is decoded with; cells need none."""
        if isinstance(self._fitted_network(), CellNetwork):
            return None
        return self._prepare_new(self._known_session(session))

    def _known_session(self, session: Session | None) -> Session:
        """Return the fitted session, or raise: maps are decoded with the pooling indices of its frames."""
        session = session if session is not None else getattr(self, "_session", None)
        if session is None:
            raise LarscopeError(
                "Another map than the stored one needs the frames of the session: got none, since this model was "
                "loaded. Pass `session=read_session(...)`."
            )
        if [run.name for run in session] != self.runs_["run"].tolist():
            raise LarscopeError("`session` must be the fitted session: got other runs. Pass the fitted one.")
        return session

    def _map(
        self,
        prepared: PreparedSession | None,
        runs: Sequence[int],
        progress: bool = False,
        fabric: Fabric | None = None,
        *,
        equal_length: bool = False,
        direction: Literal["outflow", "inflow"] = "outflow",
        gain: float = 1.0,
        exclude_radius: float = 0.0,
        preset: Literal["default", "paper"] = "default",
    ) -> Float[NDArray[np.float32], "runs height width"]:
        network = self.network_
        if preset not in ("default", "paper"):
            raise LarscopeError(f"`preset` must be 'default' or 'paper': got {preset!r}. Choose one of the two.")
        if preset == "paper" and isinstance(network, CellNetwork):
            raise LarscopeError(
                "The paper's map decodes a grid of latents: this fit has latents='cells'. Leave `preset` out, or fit "
                "with latents='grid'."
            )
        if preset == "paper":
            coefs = self._equally_fitted(runs)[1] if equal_length else [self.coef_[run] for run in runs]
        else:
            coefs = self._couplings(runs, equal_length)
        if isinstance(network, CellNetwork):
            footprints, places = network.footprints, network.positions
            cells = [footprint_map(influence(coef, direction, exclude_radius, places), footprints) for coef in coefs]
            return np.stack(cells).astype(np.float32)
        grid = network.latent_shape
        cs = [influence(coef, direction, exclude_radius, grid) for coef in coefs]
        assert prepared is not None  # only cells are drawn without frames
        window, each_run = self.settings.window, list(prepared.each_run())
        if preset == "paper":
            maps = spread(
                lambda one: map_as_printed(network, one[0], 0, one[1], window, gain),
                [(each_run[run], c) for run, c in zip(runs, cs, strict=True)],
                "Mapping contributions",
                progress,
                fabric,
            )
        else:
            n_frames = -(-RESPONSE_FRAMES // len(self.latents_))
            responses = spread(
                lambda one: respond(network, one[0], 0, one[1], n_frames, window, gain),
                list(zip(each_run, self.latents_, strict=True)),
                "Mapping contributions",
                progress,
                fabric,
            )
            response = np.mean(responses, axis=0)
            maps = [contribution_map(c, response, grid) for c in cs]
        return np.stack(maps).astype(np.float32)

    def _couplings(self, runs: Sequence[int], equal_length: bool) -> list[Float[NDArray[Any], "order K K"]]:
        """Return the couplings of runs (`fit_couplings`): of the whole session, or of as many frames of each."""
        lengths = {np.count_nonzero(np.isfinite(self.latents_[run]).all(axis=1)) for run in runs}
        if equal_length and len(lengths) > 1:
            series, runs = equally_long([self.latents_[run] for run in runs]), range(len(runs))
        else:
            series = self.latents_
        couplings = fit_couplings(self.var_, [torch.from_numpy(latent) for latent in series])
        return [couplings[run].numpy() for run in runs]

    def _equally_fitted(self, runs: Sequence[int]) -> tuple[list[Series], SparseCoefficients]:
        """Return each run's latents, cut to the shortest run, and the coefficients of these frames."""
        latents = equally_long([self.latents_[run] for run in runs])

        def fit(run: int, latent: Series) -> Float[NDArray[Any], "order K K"]:
            if len(latent) == len(self.latents_[run]):
                stored: Float[NDArray[Any], "order K K"] = self.coef_[run]
                return stored
            with torch.no_grad():
                series = torch.from_numpy(latent)
                anew: Float[NDArray[Any], "order K K"] = self.var_(series, series.isnan().all(1)).coef.numpy()
            return anew

        return latents, SparseCoefficients.from_dense(fit(*one) for one in zip(runs, latents, strict=True))

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

    def _latent_places(self) -> Float[NDArray[np.float64], "K 2"]:
        """Return row and column of each latent's centre, in input pixels."""
        step = self.preprocessing_.downscale
        return np.asarray(self.crop_offset_ + (self._fitted_network().positions + 0.5) * step - 0.5)

    def _prepare_new(self, session: Session) -> PreparedSession:
        order = self.var_.order
        require_frames(session, order + 2, f"order {order} and two to forecast")
        return prepare_showing(session, progress=False, preprocessing=self.preprocessing_, nan=self.settings.nan)

    def _fitted_network(self) -> Network:
        if not hasattr(self, "network_"):
            raise LarscopeError("This LatentVAR is not fitted yet: call `fit(session)` first, or `larscope.load`.")
        return self.network_
