"""Suites that a function of the user makes."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from affinity_service.config_sources import PythonSource
from affinity_service.errors import UserError
from affinity_service.tasks.suite import Suite


def read_python(source: PythonSource) -> Suite:
    """Call the function and take its suite, splits included.

    Raises
    ------
    UserError
        The module or function is missing or raises, an argument does not fit, or what comes back is no suite.
    """
    function = _find(source.function)
    try:
        inspect.signature(function).bind(**source.arguments)
    except TypeError as error:
        raise UserError(
            f"{source.function}: the `arguments` {sorted(source.arguments)} do not fit its signature: {error}"
        ) from error
    except ValueError:
        pass  # a builtin without a signature; the call tells
    try:
        with _working_directory():
            suite = function(**source.arguments)
    except UserError as error:
        raise UserError(f"{source.function}: {error}") from error
    except Exception as error:
        raise UserError(f"{source.function} failed: {type(error).__name__}: {error}") from error
    if not isinstance(suite, Suite):
        raise UserError(
            f"{source.function} returned {type(suite).__name__}, expected affinity_service.tasks.Suite; "
            "Suite.from_arrays(X, Y) makes one"
        )
    return suite


def _find(name: str) -> Callable[..., Any]:
    module_name, _, path = name.partition(":")
    try:
        with _working_directory():
            found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # The module itself or a parent, not something that it imports.
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise UserError(
                f"{name}: no module `{error.name}`; it must be installed or lie in the working directory {os.getcwd()}"
            ) from error
        raise UserError(f"{name}: importing `{module_name}` failed: {error}") from error
    except Exception as error:
        raise UserError(f"{name}: importing `{module_name}` failed: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, [key for key in vars(found) if not key.startswith("_")], n=1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            raise UserError(f"{name}: `{module_name}` has no `{part}`{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"{name}: `{path}` is {type(found).__name__}, expected a function that returns a suite")
    return found


@contextlib.contextmanager
def _working_directory() -> Iterator[None]:
    """Modules of the working directory can be imported, as with `python -m`."""
    sys.path.insert(0, os.getcwd())
    try:
        importlib.invalidate_caches()
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(os.getcwd())
