"""The service that a launch becomes: whatever XNAT says, it is inside the policy and shows no secret."""

from __future__ import annotations

import copy
import json
import subprocess
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from xnat_hub.mounts import MountError, is_below
from xnat_hub.options import parse_launch
from xnat_hub.service import ENTRYPOINT, labels, service_name, split_env, task_template
from xnat_hub.settings import Settings

from tests.unit.conftest import SAMPLES

BY_NAME = {sample["name"]: sample["response"]["body"] for sample in SAMPLES}


def template(body: dict[str, Any], settings: Settings) -> dict[str, Any]:
    launch = parse_launch(body, body["servername"])
    open_env, _ = split_env(launch.env)
    secret = {"id": "abc", "name": "secret"}
    return task_template(launch, settings, open_env, secret, launch.command or ("jupyterhub-singleuser",), {})


@pytest.mark.parametrize(
    ("user", "server"),
    [
        ("jdoe", "20260115T093012345Z"),
        ("A" * 64, "20260115T093012345Z"),
        ("o'neil.x_y-1", "20260115T093012345Z"),
        ("-", ""),
        ("ÄÖÜ", "x" * 64),
    ],
)
def test_service_names_are_dns_safe_and_short(user: str, server: str) -> None:  # contract 6.12
    name = service_name("jupyterhub", user, server)
    assert len(name) <= 63 - len("-env")
    assert all(part.isalnum() and part.isascii() and part == part.lower() for part in name.split("-"))


def test_people_who_differ_in_letter_case_have_different_services() -> None:  # contract 6.11
    names = {service_name("d", user, server) for user in ("jdoe", "JDoe") for server in ("a", "b", "A")}
    assert len(names) == 6


def test_a_launch_becomes_a_closed_service(settings: Settings) -> None:
    spec = template(BY_NAME["session_gpu_constraints"], settings)
    container = spec["ContainerSpec"]
    assert container["User"] == "1500:1501"
    assert container["Groups"] == ["20"]
    assert container["CapabilityDrop"] == ["ALL"]
    assert container["Command"] == list(ENTRYPOINT)
    assert container["Args"] == ["jupyterhub-singleuser"]
    assert [(m["Source"], m["Target"], m["ReadOnly"]) for m in container["Mounts"]] == [
        ("/srv/atlases", "/opt/atlases", True),
        ("/srv/xnat/workspaces/users/o'neil.x_y-1", "/workspace/o'neil.x_y-1", False),
        ("/srv/xnat/archive/OASIS/arc001/OAS1_0001_MR1", "/data/projects/OASIS/experiments/OAS1_0001_MR1", True),
    ]
    assert spec["Resources"]["Limits"] == {"NanoCPUs": 8 * 10**9, "MemoryBytes": 32 * 2**30, "Pids": 4096}
    assert spec["Resources"]["Reservations"]["GenericResources"] == [
        {"DiscreteResourceSpec": {"Kind": "gpu", "Value": 1}},
        {"NamedResourceSpec": {"Kind": "accelerator", "Value": "a100"}},
        {"DiscreteResourceSpec": {"Kind": "nvidia.com/gpu", "Value": 2}},
    ]
    assert spec["RestartPolicy"] == {"Condition": "none"}
    assert "Configs" not in container


def test_the_alias_secret_is_not_in_the_service(settings: Settings) -> None:
    body = BY_NAME["project_plain"]
    text = json.dumps(template(body, settings))
    env = body["task_template"]["container_spec"]["env"]
    assert env["XNAT_PASS"] not in text
    assert env["XNAT_USER"] not in text
    assert env["XNAT_HOST"] in text


VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from(["XNAT_PASS", "XNAT_USER", "A_TOKEN", "MY_KEY"]), VALUES, max_size=4))
def test_sh_reads_back_every_secret_value_as_it_was(env: dict[str, str]) -> None:
    open_env, secret_env = split_env(env)
    assert open_env == []
    script = f"set -a\n{secret_env}\nset +a\nexec env -0"
    seen = subprocess.run(["/bin/sh", "-c", script], env={}, capture_output=True, check=True).stdout
    assert dict(line.split("=", 1) for line in seen.decode().split("\0") if line and not line.startswith("PWD=")) == env


def test_labels_leave_out_what_is_empty() -> None:
    assert labels("d", "jdoe", "s") == {
        "org.xnat.jupyterhub.deployment": "d",
        "org.xnat.jupyterhub.user": "jdoe",
        "org.xnat.jupyterhub.server": "s",
    }


PATHS = st.sampled_from(
    ["/srv/xnat/archive/P1", "/srv/xnat/archive", "/srv/xnat/archive/../x", "/etc", "/srv/xnat/workspaces/users/a", "x"]
)
TARGETS = st.sampled_from(["/data/a", "/data/a/", "/data/b", "/workspace/a", "/usr", "/", "/data/../etc"])


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.builds(
            lambda source, target, read_only: {
                "source": source, "target": target, "type": "bind", "read_only": read_only,
            },
            PATHS, TARGETS, st.booleans(),
        ),
        max_size=3,
    )
)  # fmt: skip
def test_the_service_mounts_only_what_the_policy_allows_or_is_not_made(
    settings: Settings, mounts: list[dict[str, Any]]
) -> None:
    body = copy.deepcopy(BY_NAME["project_plain"])
    body["task_template"]["container_spec"]["mounts"] = mounts
    try:
        spec = template(body, settings)
    except MountError:
        return
    for made in spec["ContainerSpec"]["Mounts"]:
        in_archive = is_below(made["Source"], "/srv/xnat/archive/P1")
        assert in_archive or is_below(made["Source"], "/srv/xnat/workspaces/users")
        assert made["ReadOnly"] or not in_archive
        assert made["BindOptions"] == {"Propagation": "rprivate"}
