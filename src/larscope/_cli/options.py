"""Turns every setting of a fit (`larscope._settings`) into a command-line option."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from larscope._settings import REFITTED, Settings, describe_setting, setting_names

DYNAMICS, FRAMES, NETWORK, TRAINING = (f"Settings: {name}" for name in ("dynamics", "frames", "network", "training"))
PANELS = {
    **dict.fromkeys(REFITTED, DYNAMICS),
    **dict.fromkeys(("crop", "downscale", "nan"), FRAMES),
    **dict.fromkeys(
        ("latents", "cell_diameter", "patch", "skip", "adaptive_skip", "shortcut", "output", "pooling", "batch_norm"),
        NETWORK,
    ),
    **dict.fromkeys(
        ("training", "epochs", "batch_size", "learning_rate", "precision", "window", "window_starts", "seed"), TRAINING
    ),
}
"""Help panel of each setting."""


def with_settings(as_lists: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per setting; the ones passed arrive as keywords.

    With `as_lists`, every option but the crop takes several values, separated by commas.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [one for one in inspect.signature(command).parameters.values() if one.kind != one.VAR_KEYWORD]

        @wraps(command)
        def run(**passed: Any) -> None:
            settings = {name: passed.pop(name) for name in setting_names()}
            command(**passed, **{name: value for name, value in settings.items() if value is not None})

        run.__signature__ = inspect.Signature([*own, *_setting_options(as_lists)])  # type: ignore[attr-defined]
        return run

    return decorate


def _setting_options(as_lists: bool) -> list[inspect.Parameter]:
    hints = get_type_hints(Settings)
    options = []
    for name in setting_names():
        default = Settings.__dataclass_fields__[name].default
        default = getattr(default, "default", default)
        described = describe_setting(name)
        parts = (hints[name], *get_args(hints[name]))
        choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
        number = bool({int, float}.intersection(parts) and choices)  # or a word: typer knows no such type
        listed = "" if all(f"'{choice}'" in described for choice in choices) else f" One of {', '.join(choices)}."
        shown = "" if default is None else f" [default: {default}]".lower()
        as_list = as_lists and name != "crop"
        option = typer.Option(
            help=described + listed + shown,
            show_default=False,
            rich_help_panel=PANELS.get(name, "Settings"),
            metavar="<list>" if as_list else "<number or word>" if number else "<word>" if choices else None,
            parser=_number_or_word if number and not as_list else None,
        )
        options.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[(str if as_list or number else hints[name]) | None, option],
            )
        )
    return options


def _number_or_word(text: str) -> float | str:
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text
