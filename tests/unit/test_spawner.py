"""What the spawner decides by itself; it is seen at work on a real swarm in tests/site."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tornado import web
from xnat_hub import spawner
from xnat_hub.client import XnatClient
from xnat_hub.settings import Settings
from xnat_hub.spawner import XnatSpawner, _workspace_only
from xnat_launcher.options import parse_launch
from xnat_launcher.policy import allowed_mounts
from xnat_launcher.swarm import Addresses, Task

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


class Stuck:
    """Docker where a task stays new for some looks; the network has this subnet and one address in use."""

    def __init__(self, subnet: str, looks: int) -> None:
        network = {"Name": "jupyterhub", "Id": "N", "IPAM": {"Config": [{"Subnet": subnet}]}}
        vip = {"Endpoint": {"VirtualIPs": [{"NetworkID": "N", "Addr": "10.0.0.2/24"}]}}
        self._addresses = Addresses(network, [], [vip])
        self._looks = looks

    async def task(self, name: str) -> Task:
        await asyncio.sleep(0)
        self._looks -= 1
        state = "new" if self._looks > 0 else "running"
        return Task("", "running", {"State": state, "Message": "created"})

    async def addresses(self) -> Addresses:
        return self._addresses


def wait(swarm: Stuck) -> str:
    """Wait for the container as the spawner does, and return the last state that users were told before it ran."""
    told: list[str] = []

    class Told(SimpleNamespace):
        def __setattr__(self, name: str, value: Any) -> None:
            told.extend([value] if name == "_state_text" else [])
            super().__setattr__(name, value)

    async def check(task: Task | None) -> None:
        pass

    asyncio.run(XnatSpawner._until_container_runs(cast(Any, Told(swarm=swarm, object_name="x", _check=check)), {}))
    return [text for text in told if text != spawner.WORDS["running"]][-1]


def test_a_server_that_gets_no_address_ends_in_words_or_tells_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spawner, "UNSCHEDULABLE_GRACE", 0.0)
    with pytest.raises(web.HTTPError, match="the network jupyterhub has no address left") as refused:
        wait(Stuck("10.0.0.0/30", 10**6))
    assert refused.value.status_code == 503
    assert "no address on the network jupyterhub yet" in wait(Stuck("10.0.0.0/24", 10))
    monkeypatch.setattr(spawner, "UNSCHEDULABLE_GRACE", 60.0)
    assert wait(Stuck("10.0.0.0/30", 10)) == spawner.WORDS["new"]


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
