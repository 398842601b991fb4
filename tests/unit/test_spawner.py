"""What the spawner decides by itself; it is seen at work on a real swarm in tests/site."""

from __future__ import annotations

import copy

from xnat_hub.mounts import allowed_mounts
from xnat_hub.options import parse_launch
from xnat_hub.settings import Settings
from xnat_hub.spawner import _workspace_only

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
