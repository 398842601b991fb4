"""`jupyterhub-singleuser`, with the imports put off that a notebook server never or seldom uses.

Two thirds of the CPU time of a start went into them: the hub's database layer, which JupyterHub's log function drags
in; a grammar that jsonschema compiles for a format that no schema of Jupyter's has; HTTP clients of dialogs that nobody
has opened yet. Stand-ins take the places of these modules while Jupyter is imported, and only then: later imports find
the real ones. A stand-in that is used after all fetches the real module, and where that does not help Jupyter is
imported without any: a new version may start slower than it could, not wrongly. Kernels are processes of their own.

`python -m lean_start` loads Jupyter and fails when it brought in one of these modules: the image's build runs it.
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
    """Stands in for a module; attributes that were not `given` come from the real one, which is imported then."""

    def __init__(self, name: str, given: dict[str, Any]) -> None:
        super().__init__(name)
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> Any:
        if name == "__path__":  # the import system asks this of every module: not a use
            raise AttributeError(name)
        return getattr(real(self.__name__), name)


class LaterClient:
    """An `httpx.AsyncClient` that is made when it is used."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    def __getattr__(self, name: str) -> Any:
        if "_client" not in self.__dict__:
            self._client = real("httpx").AsyncClient(**self._options)
        return getattr(self._client, name)


def real(name: str) -> ModuleType:
    """Import a module for good. All stand-ins leave `sys.modules`: real modules are not to be made of them."""
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
    """Return the hub's database and pages, which are behind jupyterhub.log, .metrics, .scopes and .utils.

    The two classes are for `except` and `isinstance`: a notebook server neither raises the one nor makes the other.
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
    """Return the modules to put off, each with what is asked of it while Jupyter is imported."""
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
    """Put stand-ins for `modules` that are not loaded yet into `sys.modules`, and take them out at the end."""
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
            importlib.import_module("jupyterlab.labapp")  # behind a proxy this makes clients of httpx, so it is last
    except Exception as error:  # whatever it is: a server that starts slowly is better than none
        print(f"lean_start.py does not fit this Jupyter, which starts without it: {error}", file=sys.stderr)
    run: Callable[[], Any] = importlib.import_module("jupyterhub.singleuser").main
    return run


def main() -> Any:
    """Run the single-user server."""
    gc.disable()  # nothing that is imported becomes garbage: to look for some is a waste
    run = load()
    gc.freeze()
    gc.enable()
    return run()


def check() -> str:
    """Return a complaint when a start loads what it should put off, else an empty text."""
    load()
    loaded = [name for name in stand_ins() if name in sys.modules]
    return f"lean_start.py puts off {', '.join(loaded)} no more: adapt stand_ins() to this Jupyter." if loaded else ""


if __name__ == "__main__":
    sys.exit(check() or None)
