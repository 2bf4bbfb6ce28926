"""What a function of the user makes: suites, and rows of texts."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
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
    suite = call(source.function, source.arguments)
    if not isinstance(suite, Suite):
        raise UserError(
            f"{source.function} returned {type(suite).__name__}, expected affinity_service.tasks.Suite; "
            "Suite.from_arrays(X, Y) makes one"
        )
    return suite


def call(name: str, arguments: Mapping[str, Any]) -> Any:
    """What `module:function` returns.

    Raises
    ------
    UserError
        The module or function is missing or raises, or an argument does not fit.
    """
    function = _find(name)
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise UserError(f"{name}: the `arguments` {sorted(arguments)} do not fit its signature: {error}") from error
    except ValueError:
        pass  # a builtin without a signature; the call tells
    try:
        with _working_directory():
            return function(**arguments)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except Exception as error:
        raise UserError(f"{name} failed: {type(error).__name__}: {error}") from error


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
        raise UserError(f"{name}: `{path}` is {type(found).__name__}, expected a function")
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
