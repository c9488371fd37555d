"""Section "How was it made?": settings, versions, inputs, the command, and a methods paragraph to paste."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from larscope._report.cells import has_cells, was_sought
from larscope._report.section import Section
from larscope._report.sentences import choices_of
from larscope._report.style import conditions_of, counted
from larscope._results.comparison import LEVEL, ComparisonRecord
from larscope._results.folder import Result

PAPER = (
    "Kabus et al. (2026) Embedding interpretable l1-regression into neural networks for uncovering temporal structure "
    "in cell imaging. arXiv 2603.02899."
)
EFRON = "Efron, Hastie, Johnstone & Tibshirani (2004) Least angle regression. Annals of Statistics 32, 407-499."
KINGMA = "Kingma & Ba (2015) Adam: a method for stochastic optimization. ICLR; arXiv 1412.6980."
PHIPSON = (
    "Phipson & Smyth (2010) Permutation p-values should never be zero. Statistical Applications in Genetics and "
    "Molecular Biology 9, 39."
)
WESTFALL = "Westfall & Young (1993) Resampling-based multiple testing. Wiley."

TRAINED = {
    "sequential": "The autoencoder was trained alone, and the autoregression fitted afterwards",
    "embedded": ("The decoder was trained to render the autoregression's forecasts, with coefficients held constant"),
    "end-to-end": (
        "The decoder was trained to render the autoregression's forecasts, and gradients flowed through the fit of its "
        "coefficients"
    ),
}


def methods_section(result: Result, records: Sequence[ComparisonRecord]) -> Section:
    """Say how a result was made, for others to repeat and describe it."""
    return Section(
        "made",
        "How was it made?",
        [],
        shown={
            "command": command_of(result.provenance),
            "repeat": repetition(result),
            "methods": describe_methods(result, records),
            "references": references(records),
            "settings": result.settings,
            "provenance": result.provenance,
        },
    )


def command_of(provenance: Mapping[str, Any]) -> str:
    """Return the command of a result, ready to type again.

    >>> command_of({"command": ["/usr/bin/larscope", "fit", "my movies.csv", "--out", "result"]})
    "larscope fit 'my movies.csv' --out result"
    """
    program, *arguments = provenance["command"] or [""]
    name = PurePath(program).name
    start = {"__main__.py": ["python", "-m", "larscope"], "larscope": ["larscope"]}.get(name, ["python", program])
    return shlex.join([*start, *arguments])


def repetition(result: Result) -> str:
    """Return the command or code to repeat a result; a refit begins with the trained result."""
    if "refitted_from" not in result.provenance:
        return "larscope fit <session table> --config <result>/config.toml --out <new folder>"
    trained = result.provenance["refitted_from"]["settings"]
    changed = [name for name in (*trained, *result.settings) if trained.get(name) != result.settings.get(name)]
    how = "".join(f", {name}={result.settings.get(name)!r}" for name in dict.fromkeys(changed))
    return f"larscope.load(<the trained result>).refit(<session>{how})"


def describe_methods(result: Result, records: Sequence[ComparisonRecord]) -> str:
    """Describe the analysis as in a paper; every number is the result's."""
    return " ".join([*_recordings(result), *_model(result), *_found(result), *_compared(records)])


def references(records: Sequence[ComparisonRecord]) -> list[str]:
    """Return the works cited in the methods paragraph."""
    return [EFRON, PAPER, KINGMA, *([PHIPSON, WESTFALL] if records else [])]


def _recordings(result: Result) -> list[str]:
    data = result.dataset
    kind = "Simulated movies" if data.attrs["simulated"] else "Movies"
    groups = ", ".join(f"{len(runs)} {name}" for name, runs in conditions_of(data).items())
    height, width = (int(size) for size in data.attrs["crop"])
    step = int(data.attrs["downscale"])
    small = f", downscaled by a factor of {step} (nearest neighbour)" if step > 1 else ""
    n_frames = data["n_frames"].to_numpy()
    each = f"{n_frames.min()}" if n_frames.min() == n_frames.max() else f"{n_frames.min()} to {n_frames.max()}"
    gaps = {"mask": " Frames with missing pixels were left out.", "interpolate": " Missing frames were interpolated."}
    return [
        f"{kind} of {counted(data['run'], 'run')} ({groups}; {each} frames each, {data.sizes['frame']:,} in all) were "
        f"analysed with larscope {result.provenance['versions']['larscope']} (Kabus et al. 2026). Frames were cropped "
        f"to the central {height} x {width} pixels{small}, and their intensities scaled to [0, 1] over the session."
        f"{gaps.get(result.settings.get('nan', 'error'), '')}"
    ]


def _model(result: Result) -> list[str]:
    data, chosen = result.dataset, result.settings
    centred = "centred and " if chosen["center"] else ""
    scaled = "unit variance each" if chosen["scale"] == "latent" else "unit variance as a series"
    n_latents, order = data.sizes["latent"], int(data.attrs["order"])
    penalty = {
        "mean": f"{result.penalty:.4g} ({result.penalty * n_latents:.4g} for each target latent",
        "target": f"{result.penalty:.4g} (for each target latent",
        "noise": f"{result.penalty:.4g} sqrt(2 log({order * n_latents}) / n) (for a fit to n frames",
        "residual": f"{result.penalty:.4g} s sqrt(2 log({order * n_latents}) / n) (for a fit to n frames, "
        "with s the residual standard deviation of each latent given its own past",
    }[chosen["penalty_scale"]]
    fitted = (
        "Afterwards coefficients were fitted to each whole run, for couplings, maps and comparisons, and one matrix of "
        "coefficients to all runs of a condition, for forecasts and errors."
        if chosen.get("coefficients") == "condition"
        else "Afterwards coefficients were fitted to each whole run."
    )
    return [
        f"{_latents(result)} The latents of a run, {centred}scaled to {scaled}, were "
        f"modelled by a vector autoregression of order {order} with an l1 penalty of {penalty}, "
        "in units of 1/(2n) squared error), the solution "
        f"of least angle regression (Efron et al. 2004), computed exactly{_restrictions(chosen)}.",
        f"{_optimisation(result)}{fitted}{_choice(result)}",
    ]


def _latents(result: Result) -> str:
    data, chosen = result.dataset, result.settings
    rows, columns = data["mean_frame"].shape
    n_latents = data.sizes["latent"]
    if has_cells(data) and not was_sought(data):
        return f"Latents were the traces of {n_latents} cells, extracted before."
    if has_cells(data):
        return (
            f"Latents of each frame of {rows} x {columns} pixels were the brightness of {n_latents} cells of about "
            f"{data.attrs['cell_diameter']:.2g} pixels, read by ridge least squares beside haze that cells share and "
            "fading or movement of the static image; the footprints were found in the covariance of frames with "
            "the frames after them."
        )
    down = len(set(data["latent_row"].to_numpy().tolist()))
    across = len(set(data["latent_column"].to_numpy().tolist()))
    skip = " with a skip connection for the mean frame" if chosen["skip"] else ""
    begin = (
        ", starting from a linear model (first principal component of each patch's changes; images by ridge regression "
        "on the nearest nine latents)"
        if chosen["shortcut"]
        else ""
    )
    return (
        f"A convolutional autoencoder{skip} compressed each frame of {rows} x {columns} pixels to a map of "
        f"{down} x {across} = {n_latents} latents{begin}."
    )


def _optimisation(result: Result) -> str:
    """Say how the network was trained, if it was."""
    if has_cells(result.dataset):
        return ""
    chosen = result.settings
    epochs = 1 + max(row["epoch"] for row in result.log)
    begun = ", begun anywhere and anew each epoch" if chosen["window_starts"] == "random" else ""
    return (
        f"{TRAINED[chosen['training']]} ({counted(result.log, 'step')} of Adam, Kingma & Ba 2015, in "
        f"{counted(range(epochs), 'epoch')}; learning rate {chosen['learning_rate']:g}; "
        f"{counted(range(chosen['batch_size']), 'window')} of {chosen['window']} frames a step{begun}; seed "
        f"{chosen['seed']}).{_training(result)} "
    )


def _training(result: Result) -> str:
    """Name the settings of the dynamics with another value in training than in the final fits."""
    others = result.trained_otherwise.items()
    said = ", ".join(f"{name.replace('_', ' ')} {'none' if value is None else value}" for name, value in others)
    return f" In training, other settings of the autoregression were used: {said}." if said else ""


def _choice(result: Result) -> str:
    """Say how chosen penalties were chosen."""
    return "".join(
        (f" The penalty of that matrix, {choice.penalty:.4g}," if choice.shared else " The penalty of these fits")
        + f" was chosen among {len(choice.tried)} by the squared error of forecasts, one frame ahead, of "
        f"{choice.held_out}."
        for choice in choices_of(result)
        if choice.tried.size
    )


def _restrictions(chosen: Mapping[str, Any]) -> str:
    """Name further restrictions of the coefficients; results of earlier versions lack some settings."""
    near, own = chosen.get("max_distance"), chosen.get("own_weight", 1.0)
    local = f", with couplings only between latents at most {near:g} latent pixels apart" if near is not None else ""
    if own == 0:
        return f"{local}, a latent's own past free"
    return local + (f", with a penalty of {own:g} times that on a latent's own past" if own != 1 else "")


def _found(result: Result) -> list[str]:
    data = result.dataset
    explained, heldout = (data[name].to_numpy().astype(float) for name in ("var_explained", "var_error_heldout"))
    said = []
    if (known := explained[explained == explained]).size:
        said.append(
            f"Forecasts one frame ahead explained {known.mean():.0%} of the latents' variance in sample "
            f"(runs: {known.min():.0%} to {known.max():.0%})"
        )
    if (known := heldout[heldout == heldout]).size:
        said.append(
            "on the last fifth of each run, with coefficients from the rest, the squared error was "
            f"{known.mean():.2f} of the squared signal"
        )
    own = data["coef_target"].to_numpy() == data["coef_source"].to_numpy()
    by_chance = f" ({data['n_chance'].to_numpy().mean():.0f} by chance)" if "n_chance" in data else ""
    said.append(f"a run had {(~own).sum() / data.sizes['run']:.0f} couplings between latents on average{by_chance}")
    text = "; ".join(said) + "."
    return [text[0].upper() + text[1:]]


def _compared(records: Sequence[ComparisonRecord]) -> list[str]:
    if not records:
        return []
    sentences = [
        "Conditions were compared by the squared distance of couplings (found in all runs together, those beyond "
        "chance measured in each run by least squares, in units of their standard errors), and by the paper's two "
        "tests, swapped coefficients and distances of influence vectors, with p-values from restricted permutations "
        "of the labels (Phipson & Smyth 2010); differences of contribution maps and of single coefficients were "
        f"corrected by max-T at {LEVEL} (Westfall & Young 1993)."
    ]
    for record in records:
        summary = record.summary
        ps = {name: f"p = {test['pvalue']:.2g}" for name, test in summary["tests"].items()}
        couplings = f"couplings: {ps['coupling']}; " if "coupling" in ps else ""
        members = {summary[side]: summary["runs"][summary[side]] for side in ("first", "second")}
        sizes = " against ".join(f"{name} ({counted(runs, 'run')})" for name, runs in members.items())
        sentences.append(
            f"{sizes}: {couplings}coefficient swap: {ps['swap']}; influence vectors: {ps['influence']}; smallest p of "
            f"this design: {summary['tests']['swap']['min_pvalue']:.2g}; "
            f"{summary['map']['n_different']:,} of {summary['map']['n_pixels']:,} pixels and "
            f"{summary['edges']['n_different']:,} of {summary['edges']['n_tested']:,} coefficients differed."
        )
    return sentences
