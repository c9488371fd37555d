"""Evaluation of a trained network and a VAR on whole runs (sec. 3.5): latents, forecasts and their errors."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from larscope._compute.memory import keep_freed_memory
from larscope._dynamics.chance import count_by_chance
from larscope._dynamics.coefficients import SparseCoefficients
from larscope._dynamics.diagnostics import diagnose
from larscope._dynamics.var import SparseVAR, complete_rows, first_part, measure
from larscope._fit.networks import Network
from larscope._movies.preprocessing import PreparedSession, true_ranges
from larscope._network.autoencoder import Autoencoder
from larscope._settings import Settings
from larscope._statistics.maps import Decode, decoder_response, printed_map

CLIP_FRAMES = 32
"""Length of a run's clip, around the frame with the most latent change."""

RESPONSE_FRAMES = 256
"""Frames, over all runs, for averaging the decoder's response to the latents."""


@dataclass(frozen=True)
class Example:
    """One frame of a run with its reconstruction and forecast, in [0, 1] of the session."""

    frame: int
    observed: Float[NDArray[np.float32], "height width"]
    reconstruction: Float[NDArray[np.float32], "height width"]
    forecast: Float[NDArray[np.float32], "height width"]


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of a run with their reconstructions, in [0, 1] of the session."""

    frame: Int[NDArray[np.int64], " n"]
    observed: Float[NDArray[np.float32], "n height width"]
    reconstruction: Float[NDArray[np.float32], "n height width"]


@dataclass(frozen=True)
class RunEvaluation:
    """One run: `coef` are its own; `forecast` and `scores` use the requested coefficients."""

    latent: Float[NDArray[np.float32], "T K"]
    forecast: Float[NDArray[np.float32], "n K"]
    coef: SparseCoefficients
    scores: dict[str, float]
    example: Example


def encode_run(network: Network, prepared: PreparedSession, run: int, window: int) -> Float[Tensor, "T K"]:
    """Return the latent series of a whole run, encoded `window` frames at a time; NaN at missing frames."""
    keep_freed_memory()
    device = network.mean_frame.device
    latent = torch.full((prepared.runs[run].n_frames, network.n_latents), float("nan"), device=device)
    with torch.no_grad():
        for start, stop in prepared.runs[run].batches(window):
            latent[start:stop] = network.encode(_frames(network, prepared, run, start, stop))[0]
    return latent


def decode_run(
    network: Network,
    prepared: PreparedSession,
    run: int,
    latent: Float[Tensor, "*series n K"],
    window: int,
    pooling_lag: int = 0,
) -> Iterator[tuple[int, Float[Tensor, "*series t height width"]]]:
    """Decode one or several series for the run's last n frames, `window` frames at a time.

    Yields the number of the first frame, and the images. Pooling indices come from the frame `pooling_lag`
    before each: they are computed again rather than kept, since they take more memory than the movie.
    Frames whose latents are NaN, as those of missing frames are, are left out.
    """
    keep_freed_memory()
    *series, n, _ = latent.shape
    first = prepared.runs[run].n_frames - n
    there = torch.isfinite(latent).reshape(-1, n, latent.shape[-1]).all(2).all(0).cpu().numpy()
    with torch.no_grad():
        for begin, end in true_ranges(there):
            for start in range(first + begin, first + end, window):
                stop = min(start + window, first + end)
                indices = _rest(network, prepared, run, start - pooling_lag, stop - pooling_lag)
                parts = latent[..., start - first : stop - first, :].reshape(-1, stop - start, latent.shape[-1])
                images = torch.stack([network.decode(part, indices) for part in parts])
                yield start, images.reshape(*series, *images.shape[1:])


@dataclass(frozen=True)
class SharedCoefficients:
    """One matrix of coefficients for all runs of a condition: fitted to them whole, and to the first 80 % of each."""

    whole: Float[Tensor, "order K K"]
    early: Float[Tensor, "order K K"]


def share_coefficients(
    var: SparseVAR, latents: Sequence[Float[Tensor, "_T K"]], conditions: Sequence[str]
) -> dict[str, SharedCoefficients]:
    """Fit one VAR to all runs of each condition; frames that are NaN are missing."""
    shared = {}
    for condition in dict.fromkeys(conditions):
        runs = [latent for latent, name in zip(latents, conditions, strict=True) if name == condition]
        parts = [latent[: first_part(len(latent))] for latent in runs]
        # where nothing is left of a run's first part, or of any, no held-out error is measured either
        parts = [part for part in parts if bool(complete_rows(part.isnan().any(1), var.order).any())] or runs
        with torch.no_grad():
            shared[condition] = SharedCoefficients(
                *(var.fit_together(series, [one.isnan().any(1) for one in series]) for series in (runs, parts))
            )
    return shared


def evaluate_run(
    network: Network,
    var: SparseVAR,
    prepared: PreparedSession,
    run: int,
    settings: Settings,
    latent: Float[Tensor, "T K"],
    shared: SharedCoefficients | None = None,
) -> RunEvaluation:
    """Fit the VAR to a whole run, from its latents on, and measure it; with shared coefficients, measure those.

    Errors are mean squared differences in [0, 1] units over frames order .. T - 1 and all pixels.
    `forecast_error` decodes the forecast; `reconstruction_error` decodes what the network was trained to decode:
    the latents themselves in `"sequential"` training, else the forecast (Table 2). `n_couplings` counts the couplings
    between latents of the run's own fit, `n_chance` those that the same fit finds by chance: of the same latents, each
    shifted in time. Diagnostics (`larscope._dynamics.diagnostics`) are of the run's own fit too.
    """
    missing = torch.from_numpy(prepared.runs[run].missing).to(latent.device)
    with torch.no_grad():
        own = var(latent, missing)
        fit = own if shared is None else var.apply_coef(shared.whole, latent, missing)
    pooling_lag = settings.pooling_lag
    energy = (latent - latent[~missing].mean(0))[var.order :].square().sum(1)
    forecastable = complete_rows(missing, var.order)
    liveliest = var.order + int(energy.masked_fill(~forecastable, -1).argmax())

    decoded = {pooling_lag: [fit.forecast]}
    if settings.training == "sequential":
        known = fit.forecast.where(fit.forecast.isnan(), latent[var.order :])
        decoded.setdefault(0, []).append(known)
    rendered = [
        one
        for lag, series in decoded.items()
        for one in _errors_and_frames(network, prepared, run, torch.stack(series), settings.window, lag, liveliest)
    ]
    (forecast_error, forecast), (reconstruction_error, reconstruction) = rendered[0], rendered[-1]
    scores: dict[str, float] = {
        "reconstruction_error": reconstruction_error,
        "forecast_error": forecast_error,
        **asdict(measure(var, latent, fit, missing, None if shared is None else shared.early)),
        "n_active": int(fit.n_active),
        "n_couplings": int(own.n_coupled),
        "n_chance": count_by_chance(var, latent),
        **asdict(diagnose(latent, own)),
    }
    observed = prepared.frames(run, liveliest, liveliest + 1)[0]
    example = Example(liveliest, observed, reconstruction, forecast)
    # a matrix of all pairs of latents for each lag: of many runs, only what is not zero can be kept
    coef = SparseCoefficients.from_dense([own.coef.cpu().numpy()])
    return RunEvaluation(latent.cpu().numpy(), fit.forecast.cpu().numpy(), coef, scores, example)


def explain_frames(
    network: Network, prepared: PreparedSession, run: int, latent: Float[Tensor, "n K"], window: int
) -> float:
    r"""Return the share of a run's movie explained by a latent series, in pixels: `forecast_explained`.

    .. math:: 1 - \sum (x - \hat x)^2 / \sum (x - \bar x)^2

    over the run's last n frames, without those whose latents are NaN. Pooling indices are those of the frame before, so
    that no frame shows the decoder where it is bright. The run's mean frame is granted: :math:`\hat x` is shifted to
    it in every pixel, as for any method that is compared.
    """
    latent = latent.to(network.mean_frame)
    n_frames, total = 0, torch.zeros(2, dtype=torch.float64)
    sums = torch.zeros(2, *network.mean_frame.shape, dtype=torch.float64)
    for start, images in decode_run(network, prepared, run, latent, window, pooling_lag=1):
        target = _frames(network, prepared, run, start, start + len(images))
        both = torch.stack([target - images, target - network.mean_frame]).double().cpu()
        n_frames += len(images)
        total += both.square().sum((1, 2, 3))
        sums += both.sum(1)
    residual, spread = (total - sums.square().sum((1, 2)) / n_frames).tolist()
    return 1 - residual / spread if spread > 0 else math.nan


def clip_run(
    network: Network, prepared: PreparedSession, run: int, evaluation: RunEvaluation, settings: Settings
) -> Clip:
    """Return some consecutive frames of an evaluated run around its example, and their reconstructions."""
    forecast = evaluation.forecast
    order = len(evaluation.latent) - len(forecast)
    start, stop = _stretch_around(np.asarray(np.isfinite(forecast).all(axis=1)), evaluation.example.frame - order)
    first, last = start + order, stop + order
    series, lag = forecast[start:stop], settings.pooling_lag
    if settings.training == "sequential":
        series, lag = evaluation.latent[first:last], 0
    with torch.no_grad():
        indices = _rest(network, prepared, run, first - lag, last - lag)
        images = network.decode(torch.from_numpy(series).to(network.mean_frame), indices).cpu().numpy()
    return Clip(np.arange(first, last), prepared.frames(run, first, last), images)


def _stretch_around(there: Bool[NDArray[np.bool_], " n"], at: int, length: int = CLIP_FRAMES) -> tuple[int, int]:
    """Return begin and end of at most `length` consecutive present entries around `at`.

    >>> _stretch_around(np.array([True, False, True, True, True, True]), at=3, length=2)
    (2, 4)
    """
    gaps = np.flatnonzero(~there)
    begin, end = gaps[gaps < at].max(initial=-1) + 1, gaps[gaps > at].min(initial=len(there))
    start = max(int(min(at - length // 2, end - length)), int(begin))
    return start, min(start + length, int(end))


def respond(
    network: Autoencoder,
    prepared: PreparedSession,
    run: int,
    latent: Float[NDArray[np.float32], "T K"],
    n_frames: int,
    window: int,
    gain: float = 1.0,
) -> Float[NDArray[np.float64], "9 height width"]:
    """Return how the decoder answers to each latent (`decoder_response`), over the first frames of a run."""
    ranges, left = [], n_frames
    for start, stop in prepared.runs[run].batches(window):
        ranges.append((start, min(stop, start + left)))
        left -= ranges[-1][1] - start
        if not left:
            break
    decode = _decoder(network, prepared, run, ranges)
    mean, sigma = np.nanmean(latent, axis=0), np.nanstd(latent, axis=0)
    return decoder_response(decode, mean, sigma, network.latent_shape, gain)


def map_as_printed(
    network: Autoencoder,
    prepared: PreparedSession,
    run: int,
    c: Float[NDArray[np.floating], " K"],
    window: int,
    gain: float = 1.0,
) -> Float[NDArray[np.float64], "height width"]:
    """Return a run's contribution map by the paper's formula, averaged over the pooling indices of all its frames."""
    decode = _decoder(network, prepared, run, prepared.runs[run].batches(window))
    return printed_map(c, decode, _static_image(network), gain)


def _decoder(network: Autoencoder, prepared: PreparedSession, run: int, ranges: Sequence[tuple[int, int]]) -> Decode:
    """Return a decoder of latent maps, averaged over the pooling indices of a run's frames in `ranges`."""

    def decode(maps: Float[NDArray[np.float64], "m K"]) -> Float[NDArray[np.float64], "m height width"]:
        latents = torch.from_numpy(maps).to(network.mean_frame)
        total, n_frames = torch.zeros(len(maps), *network.mean_frame.shape, dtype=torch.float64), 0
        with torch.no_grad():
            for start, stop in ranges:
                _, indices = network.encode(_frames(network, prepared, run, start, stop))
                n_frames += stop - start
                for number, one in enumerate(latents):
                    images = network.decode_residual(one.expand(stop - start, -1), indices)
                    total[number] += images.sum(0, dtype=torch.float64).cpu()
        return (total / n_frames).numpy()

    return decode


def _static_image(network: Autoencoder) -> Float[NDArray[np.float32], "height width"]:
    """Return the factor of the decoder's output; without the skip connection it is the frame itself."""
    mean_frame = network.mean_frame.cpu().numpy()
    return mean_frame if network.skip else np.ones_like(mean_frame)


def _errors_and_frames(
    network: Network,
    prepared: PreparedSession,
    run: int,
    latent: Float[Tensor, "series n K"],
    window: int,
    pooling_lag: int,
    kept: int,
) -> list[tuple[float, Float[NDArray[np.float32], "height width"]]]:
    """Return of each series the mean squared error of a run's decoded frames, and decoded frame number `kept`."""
    errors = []
    for start, images in decode_run(network, prepared, run, latent, window, pooling_lag):
        target = _frames(network, prepared, run, start, start + images.shape[1])
        errors.append((images - target).square().mean((2, 3)))
        if start <= kept < start + images.shape[1]:
            frames = images[:, kept - start].cpu().numpy()
    return list(zip(torch.cat(errors, 1).double().mean(1).tolist(), frames, strict=True))


def _rest(network: Network, prepared: PreparedSession, run: int, start: int, stop: int) -> tuple[Tensor, ...]:
    """Return what a decoder needs beside latents, of these frames: it may depend on frames before them."""
    first = max(start - network.history, 0)
    _, rest = network.encode(_frames(network, prepared, run, first, stop))
    return tuple(one[start - first :] for one in rest)


def _frames(
    network: Network, prepared: PreparedSession, run: int, start: int, stop: int
) -> Float[Tensor, "t height width"]:
    return torch.from_numpy(prepared.frames(run, start, stop)).to(network.mean_frame.device)
