"""The single-user server's start: which stand-in replaces a module, and when the real one is imported."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from singleuser.lean_start import StandIn, later, standing_in

from tests.unit.conftest import ROOT

NAMES = ("lean_slow", "lean_also", "lean_user", "lean_later")


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two slow modules, and one that imports them and uses neither."""
    (tmp_path / "lean_slow.py").write_text(
        "import lean_also\nVALUE = 1\n__version__ = '7'\ndef double(x): return 2 * x\n"
    )
    (tmp_path / "lean_also.py").write_text("VALUE = 2\n")
    (tmp_path / "lean_user.py").write_text("import lean_also, lean_slow\nfrom lean_slow import double\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in NAMES:
        sys.modules.pop(name, None)


def user() -> ModuleType:
    """Import the using module with stand-ins."""
    with standing_in({"lean_slow": {"double": later("lean_slow", "double")}, "lean_also": {}}):
        return importlib.import_module("lean_user")


def test_an_import_with_stand_ins_loads_nothing_and_leaves_none_behind() -> None:
    module = user()
    assert isinstance(module.lean_slow, StandIn)
    assert not {"lean_slow", "lean_also"} & sys.modules.keys()


def test_what_is_used_later_is_the_real_module() -> None:
    module = user()
    assert module.lean_also.VALUE == 2
    assert module.lean_slow.VALUE == 1
    assert module.lean_slow.__version__ == "7"
    assert module.double(21) == 42
    assert not isinstance(sys.modules["lean_slow"], StandIn)


def test_a_module_that_does_not_have_it_says_so() -> None:
    with pytest.raises(AttributeError, match="module 'lean_also' has no attribute 'nothing'"):
        _ = user().lean_also.nothing


def test_a_use_while_importing_brings_the_real_modules_and_they_stay(modules: Path) -> None:
    (modules / "lean_user.py").write_text("import lean_slow\nSUM = lean_slow.VALUE + lean_slow.lean_also.VALUE\n")
    assert user().SUM == 3
    assert not [name for name in NAMES if isinstance(sys.modules.get(name), StandIn)]
    assert sys.modules["lean_slow"].VALUE == 1


def test_a_module_that_is_loaded_already_stays(modules: Path) -> None:
    before = importlib.import_module("lean_also")
    assert user().lean_also is before
    assert sys.modules["lean_also"] is before


def test_stand_ins_go_when_the_import_fails(modules: Path) -> None:
    (modules / "lean_user.py").write_text("import lean_slow.part\n")
    with pytest.raises(ModuleNotFoundError):
        user()
    assert not [name for name in NAMES if name in sys.modules]


def test_jupyterhub_is_imported_without_its_database() -> None:
    """Its log function, which the notebook server uses; the image's build checks the rest against JupyterLab."""
    code = (
        "import sys, lean_start\n"
        "with lean_start.standing_in(lean_start.hub_stand_ins()): import jupyterhub.log, jupyterhub.services.auth\n"
        "assert 'sqlalchemy' not in sys.modules and 'jupyterhub.orm' not in sys.modules\n"
        "assert issubclass(jupyterhub.metrics.orm.User, jupyterhub.metrics.orm.Base)\n"
        "assert 'sqlalchemy' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT / "files/singleuser", timeout=60)
