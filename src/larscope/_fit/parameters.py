"""How an estimator holds its settings: as scikit-learn's do, but checked when they are given."""

from collections.abc import Mapping
from typing import Any, Self

from larscope._errors import LarscopeError
from larscope._settings import Settings, choose_settings, expand_preset, setting_names


class HasSettings:
    """Holds the settings of a fit; every change is checked.

    Attributes whose names end or begin with `_` are what was fitted. Two estimators are equal only if they are the
    same object.
    """

    _settings: Settings

    def __init__(self, **settings: Any) -> None:
        self._settings = choose_settings(settings)

    @property
    def settings(self) -> Settings:
        """All settings, fixed: change them with `set_params`."""
        return self._settings

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return every setting by name, as scikit-learn asks for them; `deep` changes nothing."""
        return {name: getattr(self.settings, name) for name in setting_names()}

    def set_params(self, **settings: Any) -> Self:
        """Change settings, or a `preset` of them. If one really changes, the fit is forgotten.

        Raises
        ------
        LarscopeError
            A setting is unknown or out of its range; none is changed then.
        """
        changed = self._with(settings)
        if changed != self.settings:
            self._forget()
            self._settings = changed
        return self

    def _with(self, settings: Mapping[str, Any]) -> Settings:
        """Return the settings with others in place of some."""
        return choose_settings({**self.get_params(), **expand_preset(settings)})

    def _forget(self) -> None:
        """Be as before the first fit."""
        self.__dict__ = {"_settings": self.settings}

    def __sklearn_clone__(self) -> Self:
        return type(self)(**self.get_params())

    def __getattr__(self, name: str) -> Any:
        """Return a setting: `model.penalty` is `model.settings.penalty`."""
        if "_settings" in self.__dict__ and name in setting_names():
            return getattr(self.settings, name)
        kind = type(self).__name__
        if name.endswith("_") and not name.startswith("_"):
            raise AttributeError(f"{kind} has no {name!r}: it is not fitted yet, or a fit has no such result.")
        raise AttributeError(f"{kind} has no attribute {name!r}.")

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a setting by `set_params`, or keep what was fitted."""
        if name.startswith("_") or name.endswith("_"):
            object.__setattr__(self, name, value)
        elif name == "settings":
            raise LarscopeError("`settings` cannot be replaced as a whole: call `set_params` with the changes.")
        else:
            self.set_params(**{name: value})

    def __repr__(self) -> str:
        default = Settings()
        given = (f"{name}={value!r}" for name, value in self.get_params().items() if value != getattr(default, name))
        return f"{type(self).__name__}({', '.join(given)})"
