"""The settings of a fit, declared once: for Python, the command line and `config.toml`."""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import ByteSize, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from larscope._errors import LarscopeError, suggest

MIN_STEPS = 500
"""Training steps that `epochs=None` asks for at least; the paper's two epochs were about 480."""

SHORTCUT_STEPS, MAX_PASSES = 250, 32
"""With the shortcut there is less to learn: so many steps, but no more epochs, or short recordings would be learned by
heart."""

DEFAULT_PENALTY = 1.0
"""Of single runs and training windows. A training with `penalty="auto"` takes it too: before it there are no latents to
choose by."""

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
"""Settings of the dynamics, which a trained network can be refitted with."""

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
            "patch": 8,
            "skip": True,
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
"""Settings by one name. `"paper"` is what arXiv 2603.02899 says and, where it is silent, what it is read as: all
but the frames and the seed, so that it stays the same whatever becomes the default."""

PRESET = "Settings by one name, which those that are given win over. 'paper': the paper's, but for --crop."

PositiveInt = Annotated[int, Field(ge=1)]


@dataclass(kw_only=True, config=ConfigDict(extra="forbid"))
class Settings:
    """Every choice of a fit, with its default; the descriptions are the command line's help."""

    order: Annotated[PositiveInt, Field(description="VAR order p: how many past frames a forecast uses.")] = 5
    penalty: Annotated[
        Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] | None,
        Field(
            description=f"The VAR's l1 penalty, in units of `penalty_scale`. Default: {DEFAULT_PENALTY}; where runs "
            "share coefficients, the one that forecasts left-out runs best. 'auto': the default in training, and after "
            "it the one that forecasts held-out frames best."
        ),
    ] = None
    training: Annotated[
        Literal["sequential", "embedded", "end-to-end"],
        Field(
            description="'sequential': autoencoder alone, VAR afterwards. 'embedded': the decoder sees the "
            "forecast, no gradient through the fit. 'end-to-end': gradients through the fit too."
        ),
    ] = "end-to-end"
    epochs: Annotated[
        PositiveInt | None,
        Field(
            description=f"Passes over the windows. Default: as many as give {SHORTCUT_STEPS} steps, from 2 to "
            f"{MAX_PASSES}; without the shortcut, {MIN_STEPS} steps."
        ),
    ] = None
    batch_size: Annotated[
        PositiveInt, Field(description="Windows in one training step: it follows their mean gradient.")
    ] = 1
    precision: Annotated[
        Literal["float32", "bfloat16"],
        Field(
            description="Arithmetic of the convolutions in training: 'bfloat16' is faster where the processor has it. "
            "Latents, their dynamics and evaluation are float32 always."
        ),
    ] = "float32"
    learning_rate: Annotated[float, Field(gt=0, le=1, description="Step size of Adam.")] = 1e-3
    window: Annotated[PositiveInt, Field(description="Frames in a training window.")] = 64
    window_starts: Annotated[
        Literal["random", "fixed"],
        Field(
            description="Where training windows begin: anywhere in a run, drawn anew each epoch, or one after the "
            "other from its first frame (the paper's)."
        ),
    ] = "random"
    crop: Annotated[
        tuple[PositiveInt, PositiveInt] | None,
        Field(description="Centre crop, height and width in pixels. Default: as large as three poolings allow."),
    ] = None
    downscale: Annotated[PositiveInt, Field(description="Keep every n-th pixel in both directions.")] = 1
    nan: Annotated[
        Literal["error", "mask", "interpolate"],
        Field(
            description="Frames with NaN or infinite pixels: refuse them, leave them out, or bridge up to 10 of them "
            "from the whole frames before and after."
        ),
    ] = "error"
    patch: Annotated[
        PositiveInt,
        Field(
            description="Side of the square of pixels that a latent stands for: 8 (the paper's), 4 or 2. Half the side "
            "is four times the latents."
        ),
    ] = 8
    skip: Annotated[bool, Field(description="Skip connection for the static image.")] = True
    shortcut: Annotated[
        bool,
        Field(
            description="Latents begin as the first principal component of their patch, images as least squares on the "
            "latents around; the network learns what these lack."
        ),
    ] = True
    output: Annotated[
        Literal["linear", "leaky"],
        Field(description="Last decoder block: linear, or with batch norm and leaky ReLU (the paper's)."),
    ] = "linear"
    pooling: Annotated[
        Literal["previous", "target"],
        Field(description="The frame whose pooling indices decode a forecast: the one before its target, or that."),
    ] = "previous"
    batch_norm: Annotated[
        Literal["running", "window"],
        Field(description="Batch-norm statistics in evaluation: running averages, or those of each window."),
    ] = "running"
    center: Annotated[bool, Field(description="Subtract each series' mean before the VAR fit.")] = True
    scale: Annotated[
        Literal["latent", "series"],
        Field(description="Unit variance before the fit: of each latent, or of the series as a whole (the paper's)."),
    ] = "latent"
    penalty_scale: Annotated[
        Literal["noise", "target", "mean"],
        Field(
            description="'noise': alpha = penalty * s * sqrt(2 log(candidates) / frames), what chance reaches where "
            "a latent's own past leaves s. 'target': alpha = penalty. 'mean': alpha = penalty * K (the paper's)."
        ),
    ] = "noise"
    own_weight: Annotated[
        float,
        Field(
            ge=0,
            allow_inf_nan=False,
            description="Weight of the penalty on a latent's own past: 0 for none, 1 as on all others (the paper's).",
        ),
    ] = 0.0
    coefficients: Annotated[
        Literal["run", "condition"],
        Field(
            description="'run': each run has coefficients of its own. 'condition': one matrix for all runs of a "
            "condition. Comparisons always fit each run."
        ),
    ] = "run"
    max_distance: Annotated[
        float | None,
        Field(ge=0, description="Allow couplings only between latents this near (latent pixels). Default: all."),
    ] = None
    seed: Annotated[int, Field(ge=0, lt=2**32, description="Seed of the initial weights and the order of windows.")] = 0

    @property
    def training_penalty(self) -> float:
        """The penalty in training."""
        return self.penalty if isinstance(self.penalty, (int, float)) else DEFAULT_PENALTY

    def __post_init__(self) -> None:
        if self.scale == "latent" and self.penalty_scale == "mean":
            raise LarscopeError(
                "scale='latent' needs penalty_scale='noise' or 'target': with each latent at unit variance every "
                "coefficient is zero from alpha = 1 on, and 'mean' multiplies the penalty by the number of latents. "
                "Got penalty_scale='mean'. Pass another, or scale='series'."
            )
        if self.penalty is None and self.penalty_scale != "noise":
            raise LarscopeError(
                f"penalty_scale={self.penalty_scale!r} needs a penalty in its units: got none, and the default, "
                f"{DEFAULT_PENALTY}, is in those of 'noise'. Pass one (the paper's, with 'mean', is 0.005)."
            )
        if self.patch not in (2, 4, 8):
            raise LarscopeError(
                f"`patch` must be 8, 4 or 2, of three, two or one pooling: got {self.patch}. Pass one of them."
            )
        if self.order >= self.window:
            raise LarscopeError(
                f"`order` must be smaller than `window`: got order={self.order} and window={self.window}. "
                "Lower `order` or lengthen `window`."
            )


def expand_preset(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with those that their `preset` stands for; what is given wins.

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


def setting_names() -> list[str]:
    """Names of all settings, in the order of their declaration."""
    return list(Settings.__dataclass_fields__)


def describe_setting(name: str) -> str:
    """Return the description of a setting."""
    metadata = get_type_hints(Settings, include_extras=True)[name].__metadata__
    return next(str(field.description) for field in metadata if field.description)


def explain_validation(error: ValidationError, at: Mapping[str, str] = MappingProxyType({})) -> LarscopeError:
    """Turn pydantic's report into larscope's three-part message.

    Parameters
    ----------
    error
        What validating `Settings` raised.
    at
        Where a setting was given, such as file and line, for those that were given in a file.
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
    """Make one error of those that say of which type a value could have been, none of which it is."""
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


def plain(settings: Settings) -> dict[str, Any]:
    """Return the settings as plain values, without those left at None: what `config.toml` holds."""
    values = {name: getattr(settings, name) for name in setting_names()}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value is not None
    }


def parse_size(text: str) -> int:
    """Read a number of bytes such as `2GiB`, `500 MB` or `1073741824`.

    Raises
    ------
    LarscopeError
        It is none, or not positive.

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
