"""The benchmarks run hub and launcher with settings of their own, which must be those that this version reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from xnat_hub.settings import parse as parse_hub
from xnat_launcher.settings import parse as parse_launcher

from benchmarks import bed


def test_hub_and_launcher_read_the_settings_of_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bed, "hub_uid", lambda: 1000)
    assert parse_hub(bed.hub_settings("ours"), Path("/run/secrets")).title
    assert parse_launcher(bed.launcher_settings("ours", ["image"])).images == ("image",)
