"""Functions of the user's own, found by `module:function`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from p2pfl.errors import ConfigError, one_line

__all__ = ["load_callable", "one_line"]


def load_callable(spec: str, option: str) -> Callable[..., Any]:
    """The object that `module:function` names; the current directory is searched as `python -m` does.

    `option` is the command-line option that the user gave, for messages.
    Raises ConfigError where the module cannot be imported or has no such callable.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"{option} {spec}: expected module:function, such as my_code:build")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(f"{option} {spec}: cannot import {module_name!r}: {one_line(error)}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        state = "is not callable" if hasattr(module, attribute) else "does not exist"
        raise ConfigError(f"{option} {spec}: {attribute!r} {state} in {module.__file__ or module_name}")
    return found  # type: ignore[no-any-return]
