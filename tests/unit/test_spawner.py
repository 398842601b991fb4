"""What the spawner decides by itself; it is seen at work on a real swarm in tests/site."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tornado import web
from xnat_hub import spawner
from xnat_hub.client import XnatClient
from xnat_hub.mounts import allowed_mounts
from xnat_hub.options import parse_launch
from xnat_hub.settings import Settings
from xnat_hub.spawner import XnatSpawner, _workspace_only

from tests.unit.conftest import SAMPLES


def test_the_server_without_a_name_gets_its_workspace_and_no_data(settings: Settings) -> None:
    body = copy.deepcopy(next(sample for sample in SAMPLES if sample["name"] == "project_plain")["response"]["body"])
    body["servername"] = ""
    mounts = body["task_template"]["container_spec"]["mounts"]
    mounts += [None, {"target": "/workspaces"}, {"target": "/workspace/../data"}, {"target": None}]
    launch = _workspace_only(parse_launch(body, ""))
    targets = [mount["target"] for mount in launch.mounts]
    assert targets == ["/workspace/jdoe", "/workspace/../data"]  # the policy refuses the second
    made = allowed_mounts(launch.mounts[:1], settings.roots, "jdoe")
    assert [mount.source for mount in made] == ["/srv/xnat/workspaces/users/jdoe"]


@pytest.mark.parametrize(
    ("user", "server", "named"),
    [
        ("jdoe", "my server", "'my server'"),
        ("auth0:1", "s1", "'auth0:1'"),
        ("j\xa0doe", "s1", "'j\\xa0doe'"),
    ],
)
def test_a_name_that_xnat_cannot_have_is_refused_by_name_before_xnat_is_asked(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, user: str, server: str, named: str
) -> None:
    site = replace(settings, xnat_url="http://127.0.0.1:1")  # nothing listens: an asked XNAT would be 503
    monkeypatch.setattr(spawner, "load", lambda: site)
    monkeypatch.setattr(spawner, "shared_client", lambda: XnatClient(site))
    asking: Any = SimpleNamespace(user=SimpleNamespace(name=user), name=server)
    with pytest.raises(web.HTTPError) as refused:
        asyncio.run(XnatSpawner._ask_xnat(asking))
    assert refused.value.status_code == 400
    assert named in str(refused.value.log_message)
