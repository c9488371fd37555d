"""Every setting of a fit, declared once for Python, the command line and `config.toml`."""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import ByteSize, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from larscope._errors import LarscopeError, suggest

MIN_STEPS = 500
"""Fewest training steps with `epochs=None` and no linear start; the paper's two epochs were about 480."""

SHORTCUT_STEPS, MAX_PASSES = 250, 32
"""Steps and most epochs with the linear start: it leaves less to learn, and more would overfit short recordings."""

DEFAULT_PENALTY = 1.0
"""Penalty of single runs and training windows. Training with `penalty="auto"` uses it too: it has no latents yet."""

REFITTED = (
    "order",
    "penalty",
    "penalty_scale",
    "own_weight",
    "coefficients",
    "center",
    "scale",
    "max_distance",
)
"""Settings of the dynamics: `refit` may change them without another training."""

DEFAULT_ORDER = 5
"""The paper's; training with `order="auto"` uses it too."""

ORDERS = (1, 2, 3, 4, 5, 6, 8, 10)
"""What `order="auto"` chooses from."""

Preset = Literal["default", "paper"]

PRESETS: Mapping[Preset, Mapping[str, Any]] = MappingProxyType(
    {
        "default": {},
        "paper": {
            "order": 5,
            "penalty": 0.005,
            "training": "end-to-end",
            "epochs": 2,
            "batch_size": 1,
            "precision": "float32",
            "learning_rate": 1e-3,
            "window": 64,
            "window_starts": "fixed",
            "latents": "grid",
            "patch": 8,
            "skip": True,
            "adaptive_skip": False,
            "shortcut": False,
            "output": "leaky",
            "pooling": "target",
            "batch_norm": "running",
            "center": False,
            "scale": "series",
            "penalty_scale": "mean",
            "own_weight": 1.0,
            "coefficients": "run",
            "max_distance": None,
        },
    }
)
"""Named sets of settings. `"paper"` follows arXiv 2603.02899, and our reading of it wherever it is silent. It fixes all
settings but frames and seed, so it stays the same when defaults change."""

PRESET = "A named set of settings. Options you pass override it. 'paper': the paper's settings, except --crop."

PositiveInt = Annotated[int, Field(ge=1)]


@dataclass(kw_only=True, frozen=True, config=ConfigDict(extra="forbid"))
class Settings:
    """Every setting of a fit, with its default. The descriptions are the command line's help.

    Examples
    --------
    >>> Settings(order=3).order, Settings().window
    (3, 64)
    """

    order: Annotated[
        PositiveInt | Literal["auto"],
        Field(
            description=f"Past frames used by a forecast: the VAR order p. 'auto': {DEFAULT_ORDER} in training, then "
            f"the best forecaster of held-out frames, of {ORDERS[0]} to {ORDERS[-1]}."
        ),
    ] = DEFAULT_ORDER
    penalty: Annotated[
        Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] | None,
        Field(
            description=f"l1 penalty of the VAR, in units of `penalty_scale`: higher means fewer couplings. Default: "
            f"{DEFAULT_PENALTY}; for coefficients shared by runs, the best forecaster of left-out runs. 'auto': the "
            "default in training, then the best forecaster of held-out frames."
        ),
    ] = None
    training: Annotated[
        Literal["sequential", "embedded", "end-to-end"],
        Field(
            description="'sequential': autoencoder first, VAR afterwards. 'embedded': the decoder sees the "
            "forecast, no gradient through the fit. 'end-to-end': gradients through the fit too."
        ),
    ] = "end-to-end"
    epochs: Annotated[
        PositiveInt | None,
        Field(
            description=f"Passes over the training windows. Default: enough for {SHORTCUT_STEPS} steps, 2 to "
            f"{MAX_PASSES} passes; {MIN_STEPS} steps with --no-shortcut."
        ),
    ] = None
    batch_size: Annotated[PositiveInt, Field(description="Batch size: windows averaged in one step.")] = 1
    precision: Annotated[
        Literal["float32", "bfloat16"],
        Field(
            description="Arithmetic of the convolutions in training. 'bfloat16' is faster on processors with it. "
            "Latents, dynamics and evaluation are always float32."
        ),
    ] = "float32"
    learning_rate: Annotated[float, Field(gt=0, le=1, description="Learning rate of Adam.")] = 1e-3
    window: Annotated[PositiveInt, Field(description="Frames in a training window.")] = 64
    window_starts: Annotated[
        Literal["random", "fixed"],
        Field(
            description="Where training windows start. 'random': anywhere in a run, new each epoch. 'fixed': one after "
            "the other from the first frame (the paper's)."
        ),
    ] = "random"
    crop: Annotated[
        tuple[PositiveInt, PositiveInt] | None,
        Field(description="Centre crop, height and width in pixels. Default: the largest the poolings allow."),
    ] = None
    downscale: Annotated[PositiveInt, Field(description="Keep every n-th pixel in both directions.")] = 1
    nan: Annotated[
        Literal["error", "mask", "interpolate"],
        Field(
            description="Frames with NaN or infinite pixels. 'error': refuse them. 'mask': leave them out. "
            "'interpolate': fill gaps of up to 10 frames from the neighbours."
        ),
    ] = "error"
    latents: Annotated[
        Literal["cells", "grid"],
        Field(
            description="'cells': one latent a cell, found in the movie and kept as found; settings of the network and "
            "its training do not matter. 'grid': one a patch of pixels, learned by the network (the paper's)."
        ),
    ] = "cells"
    cell_diameter: Annotated[
        Annotated[float, Field(ge=1, allow_inf_nan=False)] | None,
        Field(description="Diameter of a cell, in pixels of the prepared frames. Default: measured in the movie."),
    ] = None
    patch: Annotated[
        PositiveInt,
        Field(
            description="Pixels per latent, along each side: 8 (the paper's), 4 or 2. Half the side means four times "
            "the latents."
        ),
    ] = 8
    skip: Annotated[bool, Field(description="Skip connection: the mean frame bypasses the network.")] = True
    adaptive_skip: Annotated[
        bool,
        Field(description="With cells, the skip connection follows slow changes: of light, focus and baseline."),
    ] = True
    shortcut: Annotated[
        bool,
        Field(
            description="Start from a linear model: each latent is the first principal component of its patch, each "
            "image a least-squares fit on nearby latents. The network learns the residual."
        ),
    ] = True
    output: Annotated[
        Literal["linear", "leaky"],
        Field(description="Last decoder block: linear, or with batch norm and leaky ReLU (the paper's)."),
    ] = "linear"
    pooling: Annotated[
        Literal["previous", "target"],
        Field(description="Pooling indices for decoding a forecast: from the frame before, or from its target."),
    ] = "previous"
    batch_norm: Annotated[
        Literal["running", "window"],
        Field(description="Batch-norm statistics in evaluation: running averages, or each window's own."),
    ] = "running"
    center: Annotated[bool, Field(description="Subtract each series' mean before the VAR fit.")] = True
    scale: Annotated[
        Literal["latent", "series"],
        Field(description="Scale to unit variance before the fit: each latent, or the whole series (the paper's)."),
    ] = "latent"
    penalty_scale: Annotated[
        Literal["residual", "noise", "target", "mean"],
        Field(
            description="Unit of the penalty. 'noise': the largest chance correlation, alpha = penalty * sqrt(2 "
            "log(candidates) / frames). 'residual': that times the residual of each latent's own past. 'target': alpha "
            "= penalty. 'mean': alpha = penalty * K (the paper's)."
        ),
    ] = "residual"
    own_weight: Annotated[
        float,
        Field(
            ge=0,
            allow_inf_nan=False,
            description="Penalty weight on a latent's own past: 0 for none, 1 for the same as on others (the paper's).",
        ),
    ] = 0.0
    coefficients: Annotated[
        Literal["run", "condition"],
        Field(
            description="'run': separate coefficients for each run. 'condition': one matrix for all runs of a "
            "condition. Comparisons always fit each run."
        ),
    ] = "run"
    max_distance: Annotated[
        float | None,
        Field(ge=0, description="Longest allowed coupling, in latent pixels. Default: no limit."),
    ] = None
    seed: Annotated[int, Field(ge=0, lt=2**32, description="Seed of the initial weights and the order of windows.")] = 0

    @property
    def training_penalty(self) -> float:
        """The penalty in training."""
        return self.penalty if isinstance(self.penalty, (int, float)) else DEFAULT_PENALTY

    @property
    def training_order(self) -> int:
        """The order in training."""
        return self.order if isinstance(self.order, int) else DEFAULT_ORDER

    @property
    def largest_order(self) -> int:
        """The order, or the largest it may be chosen to be."""
        return self.order if isinstance(self.order, int) else ORDERS[-1]

    @property
    def n_frames_needed(self) -> int:
        """Frames that every run must have: a training window, and the frames before it that forecast its first."""
        return self.largest_order + self.window

    @property
    def pooling_lag(self) -> int:
        """Frames between a target and the frame with its pooling indices."""
        return 1 if self.pooling == "previous" else 0

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as TOML knows them, without those left at None: what `config.toml` holds."""
        values = {name: getattr(self, name) for name in setting_names()}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }

    def __post_init__(self) -> None:
        if self.scale == "latent" and self.penalty_scale == "mean":
            raise LarscopeError(
                "scale='latent' needs penalty_scale='residual', 'noise' or 'target': got penalty_scale='mean'. It "
                "multiplies the penalty by the number of latents, but at unit variance alpha = 1 already leaves no "
                "coefficient. Pass another, or scale='series'."
            )
        if self.penalty is None and self.penalty_scale != "residual":
            raise LarscopeError(
                f"penalty_scale={self.penalty_scale!r} needs a penalty in its units: got none, and the default, "
                f"{DEFAULT_PENALTY}, is in units of 'residual'. Pass one (the paper's, with 'mean', is 0.005)."
            )
        if self.patch not in (2, 4, 8):
            raise LarscopeError(
                f"`patch` must be 8, 4 or 2 pixels (three, two or one poolings): got {self.patch}. Pass one of them."
            )
        if self.largest_order >= self.window:
            chosen = "" if isinstance(self.order, int) else f" (up to {self.largest_order})"
            raise LarscopeError(
                f"`order` must be smaller than `window`: got order={self.order}{chosen} and window={self.window}. "
                "Lower `order` or lengthen `window`."
            )


def expand_preset(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Replace `preset` by its settings; settings you give override it.

    Raises
    ------
    LarscopeError
        There is no such preset.

    Examples
    --------
    >>> expand_preset({"preset": "paper", "epochs": 3})["epochs"], expand_preset({"preset": "default", "order": 2})
    (3, {'order': 2})
    """
    given = dict(settings)
    name = given.pop("preset", "default")
    if name not in PRESETS:
        raise LarscopeError(
            f"`preset` must be one of {', '.join(map(repr, PRESETS))}: got {name!r}. {suggest(str(name), PRESETS)}"
        )
    return {**PRESETS[name], **given}


def choose_settings(given: Mapping[str, Any]) -> Settings:
    """Return the settings that are given, the others from their `preset` or the defaults.

    Raises
    ------
    LarscopeError
        A setting is unknown or out of its range, or there is no such preset.

    Examples
    --------
    >>> choose_settings({"preset": "paper", "order": "3"}).order
    3
    """
    try:
        return Settings(**expand_preset(given))
    except ValidationError as error:
        raise explain_validation(error) from None


def setting_names() -> list[str]:
    """Names of all settings, in the order of their declaration."""
    return list(Settings.__dataclass_fields__)


def describe_setting(name: str) -> str:
    """Return the description of a setting."""
    metadata = get_type_hints(Settings, include_extras=True)[name].__metadata__
    return next(str(field.description) for field in metadata if field.description)


def explain_validation(error: ValidationError, at: Mapping[str, str] = MappingProxyType({})) -> LarscopeError:
    """Turn pydantic's report into a three-part message.

    Parameters
    ----------
    error
        Error of validating `Settings`.
    at
        File and line of each setting from a file.
    """
    lines = []
    for item in _join_alternatives(error.errors()):
        name = str(item["loc"][0]) if item["loc"] else "settings"
        where = f"{at[name]}: " if name in at else ""
        if item["type"] == "unexpected_keyword_argument":
            message = f"Unknown setting {name!r}. {suggest(name, setting_names())}"
        elif isinstance(cause := item.get("ctx", {}).get("error"), LarscopeError):
            message = str(cause)
            where = "; ".join(at[other] for other in at if re.search(rf"\b{re.escape(other)}\b", message))
            where += ": " * bool(where)
        else:
            message = f"Setting {name!r}: {_lower_first(item['msg'])}; got {item['input']!r}."
            if item["type"] == "literal_error":
                allowed = re.findall(r"'([^']+)'", item["ctx"]["expected"])
                message += f" {suggest(str(item['input']), allowed)}"
            elif len(item["loc"]) > 1:  # in a list
                message += f" It is: {describe_setting(name)}"
        lines.append(where + message)
    return LarscopeError("\n".join(lines))


def _join_alternatives(errors: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Merge pydantic's union errors into one."""
    joined: list[dict[str, Any]] = []
    for item in errors:
        name, *inside = item["loc"] or ("",)
        if not (inside and isinstance(inside[0], str)):
            joined.append(dict(item))
        elif joined and joined[-1]["loc"] == (name,):
            joined[-1]["msg"] += ", or " + item["msg"].removeprefix("Input should be ")
        else:
            joined.append({**item, "loc": (name,)})
    return joined


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def parse_size(text: str) -> int:
    """Read a number of bytes such as `2GiB`, `500 MB` or `1073741824`.

    Raises
    ------
    LarscopeError
        Not a size, or not positive.

    Examples
    --------
    >>> parse_size("2GiB")
    2147483648
    """
    try:
        n_bytes = int(TypeAdapter(ByteSize).validate_python(text))
    except (ValidationError, OverflowError):
        n_bytes = 0
    if n_bytes < 1:
        raise LarscopeError(f"Expected a size of memory such as 2GiB or 500MB; got {text!r}. Pass a number and a unit.")
    return n_bytes
