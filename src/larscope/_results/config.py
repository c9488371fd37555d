"""`config.toml`: errors with their line, and a JSON schema for editors."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from larscope._errors import LarscopeError
from larscope._results.schema import SCHEMA_VERSION, migrate
from larscope._settings import PRESET, PRESETS, Settings, expand_preset, explain_validation


def read_config(path: str | Path, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read settings from a TOML file, its `preset` included; `options` override them.

    Values are not converted: a number in quotes is text, and refused.

    Parameters
    ----------
    path
        A `config.toml` of a result, of this or an older version, or one written by hand.
    options
        Settings that win over the file's; so do those that a `preset` among them stands for.

    Raises
    ------
    LarscopeError
        The file cannot be read, a key is unknown, or a value is not allowed; file and line are named.
    """
    path, options = Path(path), expand_preset(options or {})
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text + "\n")  # what is wrong in the last line has a number too
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LarscopeError(
            f"Expected settings in TOML; {path} cannot be read: {error}. Pass the `config.toml` of a result."
        ) from error
    content = migrate(content, content.pop("schema_version", SCHEMA_VERSION), path)
    try:
        settings = {**expand_preset(content), **options}
    except LarscopeError as error:
        raise LarscopeError(f"{path}, line {_lines(text)['preset']}: {error}") from None
    try:
        TypeAdapter(Settings).validate_json(json.dumps(settings, default=str), strict=True)
    except ValidationError as error:
        at = {name: f"{path}, line {line}" for name, line in _lines(text).items() if name not in options}
        raise explain_validation(error, at) from None
    return settings


def config_schema() -> dict[str, Any]:
    """Return the JSON schema of `config.toml`, for completion and checks in editors.

    >>> config_schema()["properties"]["window"]["minimum"]
    1
    """
    schema = TypeAdapter(Settings).json_schema()
    for described in schema["properties"].values():
        described.pop("title")
        if described.get("default", "") is None:
            # TOML has no null: such a setting is left out
            del described["default"]
            allowed = [part for part in described.pop("anyOf") if part != {"type": "null"}]
            described |= allowed[0] if len(allowed) == 1 else {"anyOf": allowed}
    version = {"type": "integer", "minimum": 1, "maximum": SCHEMA_VERSION, "description": "Version of this file."}
    preset = {"enum": list(PRESETS), "default": "default", "description": PRESET}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Settings of larscope",
        "properties": {"schema_version": version, "preset": preset, **schema["properties"]},
    }


def _lines(text: str) -> dict[str, int]:
    r"""Return the first line of each key of a valid TOML file.

    >>> _lines("# settings\n'order' = 3\ncrop = [\n  64,\n  64]\nseed=1\n")
    {'order': 2, 'crop': 3, 'seed': 6}
    """
    found: dict[str, int] = {}
    begun, part = 1, ""
    for number, line in enumerate(text.split("\n"), 1):
        part += line + "\n"
        try:
            keys = tomllib.loads(part)
        except tomllib.TOMLDecodeError:
            continue  # a value goes on in the next line
        for key in keys:
            found.setdefault(key, begun)
        begun, part = number + 1, ""
    return found
