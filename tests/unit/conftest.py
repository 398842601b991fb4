"""Settings, samples and profiles that several tests use."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis
import pytest
import xnat_launcher.settings
from xnat_hub.settings import Settings, parse

from tests.hub_settings import launcher_settings_data, settings_data

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = json.loads((Path(__file__).parent / "xnat-samples.json").read_text())["user_options"]
DRILL = 100  # times as many examples: some 200,000 of all property tests

hypothesis.settings.register_profile("unit", deadline=None)
hypothesis.settings.register_profile("drill", deadline=None, max_examples=100 * DRILL)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "unit")
hypothesis.settings.load_profile(PROFILE)


def examples(number: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Run a property test with `number` examples, in a drill (HYPOTHESIS_PROFILE=drill) with DRILL times as many."""
    return hypothesis.settings(
        max_examples=number * (DRILL if PROFILE == "drill" else 1),
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of the tests that `HYPOTHESIS_PROFILE=drill pytest -m drill` runs."""
    config.addinivalue_line("markers", "drill: a property test that a drill runs with many more examples")


def user_of(body: dict[str, Any]) -> str:
    """Return the user of a sample launch: the name at the end of its workspace."""
    mounts = ((body.get("task_template") or {}).get("container_spec") or {}).get("mounts") or []
    targets = [mount["target"] for mount in mounts if str(mount.get("target")).startswith("/workspace/")]
    return targets[0].removeprefix("/workspace/") if targets else "jdoe"


@pytest.fixture
def secrets_dir(tmp_path: Path) -> Path:
    """Secrets as Docker mounts them in the hub."""
    for name, value in {
        "cookie_secret": "0f" * 32,
        "proxy_token": "proxy-token-of-the-tests",
        "service_token": "service-token-of-the-tests",
    }.items():
        (tmp_path / name).write_text(value)
    return tmp_path


@pytest.fixture
def settings(secrets_dir: Path) -> Settings:
    """The hub's settings."""
    return parse(settings_data(), secrets_dir)


@pytest.fixture
def launcher_settings() -> xnat_launcher.settings.Settings:
    """The launcher's settings."""
    return xnat_launcher.settings.parse(launcher_settings_data())


@pytest.fixture
def socket() -> Iterator[str]:
    """A path for a unix socket; such paths must be short."""
    with TemporaryDirectory(prefix="xnat-") as folder:
        yield f"{folder}/launcher.sock"
