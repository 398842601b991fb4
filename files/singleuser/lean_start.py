"""`jupyterhub-singleuser` without the imports that a notebook server rarely or never uses.

These imports took two thirds of the CPU time of a start: the hub's database layer, which JupyterHub's log function
imports; a grammar that jsonschema compiles for a format that Jupyter's schemas do not use; HTTP clients for dialogs
that nobody has opened yet. Stand-ins replace these modules only while Jupyter is imported; later imports get the real
ones. A stand-in that is used after all loads the real module. If that fails, Jupyter is imported without stand-ins: a
new version may then start more slowly, but correctly. Kernels are separate processes and are not affected.

`python -m lean_start` loads Jupyter and fails if one of these modules was imported; the image's build runs it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from types import ModuleType
from typing import Any


class StandIn(ModuleType):
    """Stands in for a module; using an attribute that was not `given` imports the real module."""

    def __init__(self, name: str, given: dict[str, Any]) -> None:
        super().__init__(name)
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> Any:
        if name == "__path__":  # the import system reads this of every module; that is not a use
            raise AttributeError(name)
        return getattr(real(self.__name__), name)


class LaterClient:
    """An `httpx.AsyncClient` that is created on first use."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    def __getattr__(self, name: str) -> Any:
        if "_client" not in self.__dict__:
            self._client = real("httpx").AsyncClient(**self._options)
        return getattr(self._client, name)


def real(name: str) -> ModuleType:
    """Import the real module, after removing all stand-ins from `sys.modules`, so that it does not import any."""
    for each, module in list(sys.modules.items()):
        if isinstance(module, StandIn):
            del sys.modules[each]
    return importlib.import_module(name)


def later(module: str, function: str) -> Callable[..., Any]:
    """Return a function that imports the real one when it is called."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(real(module), function)(*args, **kwargs)

    return call


def hub_stand_ins() -> dict[str, dict[str, Any]]:
    """Return the modules of the hub's database and pages, which jupyterhub.log, .metrics, .scopes and .utils import.

    The two classes are for `except` and `isinstance` only; a notebook server does not create instances of them.
    """
    return {
        "alembic": {},
        "sqlalchemy": {},
        "sqlalchemy.exc": {"SQLAlchemyError": type("SQLAlchemyError", (Exception,), {})},
        "jupyterhub.orm": {},
        "jupyterhub.roles": {},
        "jupyterhub.handlers.pages": {"HealthCheckHandler": type("HealthCheckHandler", (), {})},
    }


def stand_ins() -> dict[str, dict[str, Any]]:
    """Return the modules to defer, each with the attributes that are read while Jupyter is imported."""
    return hub_stand_ins() | {
        # jsonschema's checks of the formats "iri" and "duration"
        "rfc3987_syntax": {"is_valid_syntax": later("rfc3987_syntax", "is_valid_syntax")},
        "isoduration": {
            "parse_duration": later("isoduration", "parse_duration"),
            "DurationParsingException": ValueError,  # the base class of the real one
        },
        # JupyterLab's extension manager, and its lists of allowed extensions
        "httpx": {"__version__": version("httpx"), "AsyncClient": LaterClient},
        "requests": {},
    }


@contextlib.contextmanager
def standing_in(modules: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Put stand-ins for `modules` that are not loaded yet into `sys.modules`, and remove them at the end."""
    made = {name: StandIn(name, given) for name, given in modules.items() if name not in sys.modules}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, module in made.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def load() -> Callable[[], Any]:
    """Import Jupyter and return the function that runs the server."""
    try:
        with standing_in(stand_ins()):
            importlib.import_module("jupyterhub.singleuser")
            importlib.import_module("jupyterlab.labapp")  # last, since behind a proxy it creates clients of httpx
    except Exception as error:  # any error: a slow start is better than none
        print(f"lean_start.py does not support this version, starting Jupyter without it: {error}", file=sys.stderr)
    run: Callable[[], Any] = importlib.import_module("jupyterhub.singleuser").main
    return run


def main() -> Any:
    """Run the single-user server."""
    gc.disable()  # imports create no garbage, so collecting is a waste of time
    run = load()
    gc.freeze()
    gc.enable()
    return run()


def check() -> str:
    """Return an error message if a start loads a module that it should defer, else an empty text."""
    load()
    loaded = [name for name in stand_ins() if name in sys.modules]
    return f"lean_start.py no longer defers {', '.join(loaded)}: adapt stand_ins() to this Jupyter." if loaded else ""


if __name__ == "__main__":
    sys.exit(check() or None)
