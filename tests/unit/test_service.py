"""The service of a launch: whatever XNAT sends, it stays inside the policy and shows no secret."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from xnat_launcher.options import OptionsError, parse_launch
from xnat_launcher.policy import MountError, is_below
from xnat_launcher.service import (
    ENTRYPOINT,
    MAX_SECRET,
    OPEN_NAMES,
    former_service_name,
    labels,
    literal,
    scratch,
    secret_values,
    service_name,
    split_env,
    task_template,
)
from xnat_launcher.settings import Settings

from tests.hub_settings import ATLASES
from tests.unit.conftest import SAMPLES, examples, user_of

ROOTS = {"/srv/xnat/archive": ["/data", "/workspace"], "/srv/xnat/workspaces": ["/data", "/workspace"]} | {
    entry["source"]: [other["target"] for other in ATLASES if other["source"] == entry["source"]] for entry in ATLASES
}
BY_NAME = {sample["name"]: sample["response"]["body"] for sample in SAMPLES}


@pytest.fixture
def settings(launcher_settings: Settings) -> Settings:
    return launcher_settings


def template(body: dict[str, Any], settings: Settings) -> dict[str, Any]:
    launch = parse_launch(body, body["servername"])
    open_env, _ = split_env(launch.env)
    return task_template(launch, settings, user_of(body), open_env, {})[0]


@pytest.mark.parametrize(
    ("user", "server"),
    [
        ("jdoe", "20260115T093012345Z"),
        ("A" * 64, "20260115T093012345Z"),
        ("o'neil.x_y-1", "20260115T093012345Z"),
        ("-", ""),
        ("ÄÖÜ", "x" * 64),
    ],
    ids=["plain", "long-user", "punctuation", "no-letters-no-server", "not-ascii-long-server"],
)
def test_service_names_are_dns_safe_and_short(user: str, server: str) -> None:  # contract 6.12
    for name in (service_name("jupyterhub", user, server), former_service_name("jupyterhub", user, server)):
        assert len(name) <= 63 - len("-env")
        assert all(part.isalnum() and part.isascii() and part == part.lower() for part in name.split("-"))


def test_a_services_name_tells_its_neighbours_no_users_name() -> None:
    assert service_name("jupyterhub", "jdoe", "x") == "jupyterhub-a55322f28aca"
    assert former_service_name("jupyterhub", "jdoe", "x") == "jupyterhub-jdoe-a55322f28aca"  # on live swarms


def test_people_who_differ_in_letter_case_have_different_services() -> None:  # contract 6.11
    names = {service_name("d", user, server) for user in ("jdoe", "JDoe") for server in ("a", "b", "A")}
    assert len(names) == 6


def test_a_node_runs_what_was_checked_under_the_name_that_it_has_there(settings: Settings) -> None:
    body = BY_NAME["session_gpu_constraints"]
    image = body["task_template"]["container_spec"]["image"]
    for names, expected in [({}, image), ({image: "localhost/x:1"}, "localhost/x:1"), ({"other:1": "x"}, image)]:
        found = template(body, replace(settings, image_names=names))
        assert found["ContainerSpec"]["Image"] == expected


def test_idle_kernels_are_ended_by_arguments_that_nothing_of_xnat_overrides(settings: Settings) -> None:
    body = copy.deepcopy(BY_NAME["session_gpu_constraints"])
    options = body["task_template"]["container_spec"]
    args = template(body, replace(settings, cull_idle=600))["ContainerSpec"]["Args"]
    assert args == [
        "jupyterhub-singleuser",
        "--MappingKernelManager.cull_idle_timeout=600",
        "--MappingKernelManager.cull_interval=300",
        "--MappingKernelManager.cull_connected=False",
        "--MappingKernelManager.cull_busy=False",
    ]
    args = template(body, replace(settings, cull_idle=20, cull_connected=True))["ContainerSpec"]["Args"]
    assert {"--MappingKernelManager.cull_interval=20", "--MappingKernelManager.cull_connected=True"} <= set(args)
    assert "--MappingKernelManager.cull_busy=False" in args
    options["command"] = "voila x.ipynb"
    assert template(body, replace(settings, cull_idle=600))["ContainerSpec"]["Args"] == ["voila", "x.ipynb"]


def test_a_launch_becomes_a_closed_service(settings: Settings) -> None:
    spec = template(BY_NAME["session_gpu_constraints"], settings)
    container = spec["ContainerSpec"]
    assert container["User"] == "1500:1501"
    assert container["Groups"] == ["20"]
    assert container["CapabilityDrop"] == ["ALL"]
    assert container["Command"] == list(ENTRYPOINT)
    assert container["Args"] == ["jupyterhub-singleuser"]
    assert container["Sysctls"] == {"net.ipv4.ip_unprivileged_port_start": "1024"}
    *mounts, tmp, home, shm = container["Mounts"]
    assert tmp == scratch("/tmp", 8 * 2**30)
    assert home == scratch("/home/jovyan", 4 * 2**30)
    assert shm == {"Type": "tmpfs", "Target": "/dev/shm", "TmpfsOptions": {"Mode": 0o1777, "SizeBytes": 16 * 2**30}}
    assert container["ReadOnly"] is True
    assert container["Ulimits"] == [{"Name": "core", "Soft": 0, "Hard": 0}]
    assert container["DNSConfig"] == {"Nameservers": ["192.0.2.1"]}
    assert spec["LogDriver"]["Options"] == {"max-size": "10m", "max-file": "3"}
    assert [(m["Source"], m["Target"], m["ReadOnly"]) for m in mounts] == [
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


@pytest.mark.parametrize(
    "name", ["DATABASE_URL", "GH_PAT", "MY_PWD", "JWT", "DSN", "XNAT_PASS", "XNAT_USER", "JUPYTERHUB_API_TOKEN", "x"]
)
def test_a_variable_that_is_not_known_to_be_open_is_in_the_secret_only(name: str) -> None:
    open_env, secret_env = split_env({name: "hunter22", "NVIDIA_VISIBLE_DEVICES": "all"})
    assert open_env == ["NVIDIA_VISIBLE_DEVICES=all"]  # read by the container runtime, which sees no secret
    assert secret_env == f"{name}=hunter22\n"


def test_a_log_loses_secrets_and_keeps_numbers_and_names() -> None:
    env = {"JUPYTERHUB_ALLOW_TOKEN_IN_URL": "1", "COMPUTE_ENV": "1", "XNAT_PASS": "pQ3xyz", "MODE": "test"}
    env |= {"JUPYTERHUB_API_TOKEN": "0123456789", "JUPYTERHUB_USER": "python", "XNAT_DATA": "/data"}
    assert secret_values(env) == ["0123456789", "pQ3xyz"]


def test_variables_that_do_not_fit_into_a_secret_are_refused_with_their_size() -> None:
    value = "x" * 100_000
    assert split_env({f"A{number}": value for number in range(5)})
    quoted = {f"A{number}": "'" * 30_000 for number in range(5)}  # each quote becomes five bytes
    for env in ({f"A{number}": value for number in range(6)}, quoted):
        with pytest.raises(OptionsError, match=rf"container_spec\.env is [0-9]{{6}} bytes.* {MAX_SECRET - 1}$"):
            split_env(env)


def expanded(text: str) -> str:
    """What Go's template engine makes of a text whose only actions are quoted strings, as of swarmkit's Expand."""
    plain = re.sub(r'\{\{"([^"]*)"\}\}', lambda found: found[1].replace("{", "\0"), text)
    assert "{{" not in plain, f"Swarm would fill in {text}"
    return plain.replace("\0", "{")


@given(
    st.lists(st.sampled_from(["{", "{{", "}", "}}", '"', "-", " ", ".Node.Hostname", "x"]), max_size=10).map("".join)
)
def test_an_open_variable_is_the_same_after_swarm_has_expanded_it(value: str) -> None:
    (entry,) = split_env({"JUPYTERHUB_USER": value})[0]
    assert expanded(entry) == f"JUPYTERHUB_USER={value}"
    assert entry == f"JUPYTERHUB_USER={literal(value)}"


VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


SHELLS = [path for path in ("/bin/dash", "/bin/bash", "/bin/ash") if Path(path).exists()]
assert SHELLS


def read_back(shell: str, env: dict[str, str]) -> dict[str, str]:
    """What a process sees that a shell starts with these variables, as the entrypoint does."""
    open_env, secret_env = split_env(env)
    script = f"set -a\n{secret_env}\nset +a\nexec env -0"
    started = dict(line.split("=", 1) for line in open_env)
    seen = subprocess.run(
        ["/bin/sh", "-c", script], executable=shell, env=started, capture_output=True, check=True
    ).stdout
    return dict(line.split("=", 1) for line in seen.decode().split("\0") if line)


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(SHELLS),
    st.dictionaries(st.sampled_from(["XNAT_PASS", "XNAT_USER", "A_TOKEN", "DSN", "lower"]), VALUES, max_size=4),
)
def test_sh_reads_back_every_secret_value_as_it_was(shell: str, env: dict[str, str]) -> None:
    seen = read_back(shell, env)
    assert {name: seen[name] for name in seen if name not in {"PWD", "SHLVL", "_"}} == env


# Shells set these themselves, refuse to have them set, or take them for numbers.
SHELLS_OWN = [
    "UID", "EUID", "PPID", "GROUPS", "PWD", "OLDPWD", "LINENO", "RANDOM", "SECONDS", "SHLVL", "DIRSTACK", "HISTCMD",
    "PS4", "TMOUT", "OPTARG", "OPTERR", "BASHPID", "POSIXLY_CORRECT", "LC_ALL", "TZ", "MAIL", "CDPATH", "_",
]  # fmt: skip


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: Path(shell).name)
def test_no_name_that_xnat_may_set_ends_the_shell_that_starts_the_server(shell: str) -> None:
    every = {f"A{number}": "x" for number in range(3)} | dict.fromkeys([*SHELLS_OWN, "OPTIND", "BASHOPTS"], "no-number")
    body = copy.deepcopy(BY_NAME["project_plain"])
    body["task_template"]["container_spec"]["env"] = every
    launch = parse_launch(body, body["servername"])
    assert set(launch.dropped_env) == {"OPTIND", "BASHOPTS"}
    assert read_back(shell, launch.env).items() >= {"A0": "x", "A1": "x", "A2": "x"}.items()


def test_labels_leave_out_what_is_empty() -> None:
    assert labels("d", "jdoe", "s") == {
        "org.xnat.jupyterhub.deployment": "d",
        "org.xnat.jupyterhub.user": "jdoe",
        "org.xnat.jupyterhub.server": "s",
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
SOURCES = [
    '/srv/xnat/archive/{{"."}}{{"."}}/x',
    "/srv/xnat/archive/P1",
    "/srv/xnat/archive",
    "/srv/xnat/archive/../x",
    "/etc",
    "/",
    "x",
    "/srv/atlases/mni",
]
WORKSPACES = [
    "/srv/xnat/workspaces/users/jdoe",
    "/srv/xnat/workspaces/users/jdoe/sub",
    "/srv/xnat/workspaces/users/asmith",
    "/srv/xnat/workspaces/users",
]
TARGETS = ["/data/a", "/data/a/", "/data/b", "/workspace/jdoe", "/opt/mni", "/usr", "/", "/data/../etc", "/run/secrets"]
TARGETS += ["/dev/shm", "/data/{{.Node.ID}}"]
MOUNT = st.fixed_dictionaries(
    {
        "source": st.sampled_from(SOURCES + WORKSPACES) | JSON,
        "target": st.sampled_from(TARGETS) | JSON,
        "type": st.sampled_from(["bind", "bind", "bind", "volume", None]),
        "read_only": st.booleans() | st.none(),
    }
)
ENV = st.dictionaries(
    st.sampled_from(["XNAT_HOST", "XNAT_PASS", "LD_PRELOAD", "PATH", "JUPYTERHUB_API_TOKEN", "NB_UID"]) | st.text(),
    st.text(max_size=5) | JSON,
    max_size=4,
)
CONTAINER = st.fixed_dictionaries(
    {"image": st.just("localhost/x:1") | JSON},
    optional={
        "command": st.none() | st.text(max_size=20) | JSON,
        "env": ENV | JSON,
        "labels": JSON,
        "mounts": st.lists(MOUNT | JSON, max_size=3) | JSON,
        "user": st.just("0"),
        "privileges": JSON,
    },
)
RESOURCES = st.dictionaries(
    st.sampled_from(["cpu_limit", "cpu_reservation", "mem_limit", "mem_reservation", "generic_resources"]),
    st.sampled_from([None, 2.0, 64, "8G", "4Gi", "999T", {"gpu": "1"}]) | JSON,
)
PAYLOADS = st.fixed_dictionaries(
    {"servername": st.just("s1") | JSON},
    optional={
        "projectId": JSON,
        "task_template": st.fixed_dictionaries(
            {"container_spec": CONTAINER | JSON},
            optional={"resources": RESOURCES | JSON, "placement": st.dictionaries(st.just("constraints"), JSON) | JSON},
        )
        | JSON,
    },
)


@pytest.mark.drill
@examples(400)
@given(PAYLOADS | JSON)
def test_whatever_xnat_sends_the_service_is_inside_the_policy_or_is_not_made(settings: Settings, body: Any) -> None:
    ceiled = replace(settings, cpu_ceiling=16.0, memory_ceiling=32 * 2**30)
    own = settings.constraints
    try:
        launch = parse_launch(body, "s1")
        open_env, secret_env = split_env(launch.env)
        spec, allowed = task_template(launch, ceiled, "jdoe", open_env, {})
    except (OptionsError, MountError):
        return
    container = spec["ContainerSpec"]
    mounts = [mount for mount in container["Mounts"] if mount["Type"] == "bind"]
    *scratches, shm = container["Mounts"][len(mounts) :]
    assert [(mount.source, mount.target, mount.read_only) for mount in allowed] == [
        (made["Source"], made["Target"], made["ReadOnly"]) for made in mounts
    ]
    assert (shm["Type"], shm["Target"]) == ("tmpfs", "/dev/shm")
    for mount in scratches:
        assert mount["Target"] in {"/tmp", "/home/jovyan"}
        assert mount["VolumeOptions"]["DriverConfig"]["Options"]["o"].startswith("size=")
        assert "Source" not in mount
    targets = [mount["Target"] for mount in container["Mounts"]]
    assert len(set(targets)) == len(targets)
    assert container["ReadOnly"] is True
    assert tuple(spec["Placement"]["Constraints"])[: len(own)] == own
    assert container["Image"] in ceiled.images
    for made in mounts:
        assert "{{" not in made["Source"] + made["Target"]
        root = next(root for root in ROOTS if is_below(made["Source"], root))
        assert made["Source"] not in {"/srv/xnat/archive", "/srv/xnat/workspaces"}
        assert any(is_below(made["Target"], target) for target in ROOTS[root])
        assert made["ReadOnly"] or made["Source"] == "/srv/xnat/workspaces/users/jdoe"
        assert made["BindOptions"] == {"Propagation": "rprivate", "NonRecursive": True}
        assert made["Type"] == "bind"
    names = {line.partition("=")[0] for line in [*open_env, *secret_env.splitlines()]}
    assert not names & {"LD_PRELOAD", "PATH", "JUPYTERHUB_API_TOKEN", "NB_UID"}
    assert {line.partition("=")[0] for line in container["Env"]} <= OPEN_NAMES
    assert container["User"] == "1500:1501"
    assert container["CapabilityDrop"] == ["ALL"]
    assert container["Privileges"] == {"NoNewPrivileges": True}
    assert container["Command"] == list(ENTRYPOINT)
    assert spec["Resources"]["Limits"]["NanoCPUs"] <= 16 * 10**9
    assert spec["Resources"]["Limits"]["MemoryBytes"] <= 32 * 2**30
    assert set(spec) == {"ContainerSpec", "Resources", "Placement", "RestartPolicy", "Networks", "LogDriver"}
    json.dumps(spec, allow_nan=False)


@pytest.mark.parametrize(
    "resources",
    [{"cpu_limit": 64.0}, {"cpu_reservation": 17.0}, {"mem_limit": "33G"}, {"mem_reservation": "33G"}],
    ids=lambda resources: next(iter(resources)),
)
def test_more_than_the_sites_ceiling_is_refused(settings: Settings, resources: dict[str, Any]) -> None:
    body = copy.deepcopy(BY_NAME["project_plain"])
    body["task_template"]["resources"] = resources
    with pytest.raises(OptionsError, match=f"resources.{next(iter(resources))} .*(16.0|{32 * 2**30})"):
        template(body, replace(settings, cpu_ceiling=16.0, memory_ceiling=32 * 2**30))


@pytest.mark.parametrize(
    "image", ["localhost/x:2", "localhost/x", "LOCALHOST/x:1", "docker.io/library/python:3"], ids=str
)
def test_an_image_that_the_site_does_not_list_is_refused_by_name(settings: Settings, image: str) -> None:
    body = copy.deepcopy(BY_NAME["project_plain"])
    body["task_template"]["container_spec"]["image"] = image
    with pytest.raises(OptionsError, match=re.escape(f"container_spec.image is {image!r}")):
        template(body, settings)
    pinned = "registry.example.org/lab:1@sha256:" + "0" * 64
    body["task_template"]["container_spec"]["image"] = pinned
    assert template(body, replace(settings, images=(pinned,)))["ContainerSpec"]["Image"] == pinned


def sizes(spec: dict[str, Any]) -> dict[str, int]:
    """Return the size of each directory in memory."""
    found = {}
    for mount in spec["ContainerSpec"]["Mounts"]:
        if mount["Type"] == "tmpfs":
            found[mount["Target"]] = mount["TmpfsOptions"]["SizeBytes"]
        elif mount["Type"] == "volume":
            options = dict(part.partition("=")[::2] for part in volume_options(mount).split(","))
            assert set(options) == {"size", "nr_inodes", "mode", "nosuid", "nodev"}
            found[mount["Target"]] = int(options["size"])
    return found


def volume_options(mount: dict[str, Any]) -> str:
    return str(mount["VolumeOptions"]["DriverConfig"]["Options"]["o"])


@pytest.mark.parametrize(
    ("limit", "changes", "expected"),
    [
        ("8G", {}, {"/tmp": 2**31, "/home/jovyan": 2**30, "/dev/shm": 2**32}),
        (None, {}, {"/tmp": 2**30, "/home/jovyan": 2**29, "/dev/shm": 2**31}),
        ("8G", {"tmp_size": 1, "home_size": 2, "shm_size": 3}, {"/tmp": 1, "/home/jovyan": 2, "/dev/shm": 3}),
        ("8G", {"home": "/tmp/home"}, {"/tmp": 2**31, "/tmp/home": 2**30, "/dev/shm": 2**32}),
        ("8G", {"read_only": False}, {"/dev/shm": 2**32}),
    ],
    ids=["shares-of-the-limit", "shares-of-the-default", "the-sites", "another-home", "writable-root"],
)
def test_directories_in_memory_are_shares_of_the_memory_or_what_the_site_says(
    settings: Settings, limit: str | None, changes: dict[str, Any], expected: dict[str, int]
) -> None:
    body = copy.deepcopy(BY_NAME["project_plain"])
    body["task_template"]["resources"] = {"mem_limit": limit}
    spec = template(body, replace(settings, **changes))
    assert sizes(spec) == expected
    assert spec["ContainerSpec"]["ReadOnly"] is changes.get("read_only", True)
    if not {"tmp_size", "home_size", "shm_size"} & set(changes):
        assert sum(expected.values()) < spec["Resources"]["Limits"]["MemoryBytes"]


@pytest.mark.parametrize(
    ("target", "left"), [("/home/jovyan", False), ("/home", False), ("/home/jovyan/shared", True)], ids=str
)
def test_a_directory_of_the_site_takes_the_place_of_the_home(settings: Settings, target: str, left: bool) -> None:
    body = copy.deepcopy(BY_NAME["project_plain"])
    mount = {"source": "/srv/shared", "target": target, "type": "bind", "read_only": True}
    body["task_template"]["container_spec"]["mounts"] = [mount]
    root = replace(next(root for root in settings.roots if root.path == "/srv/shared"), targets=("/home",))
    assert ("/home/jovyan" in sizes(template(body, replace(settings, roots=(root,))))) is left


def test_xnat_adds_constraints_to_the_sites_and_replaces_none(settings: Settings) -> None:
    body = copy.deepcopy(BY_NAME["project_plain"])
    body["task_template"]["placement"] = {"constraints": ["node.labels.jupyter == true", "node.labels.gpu!=true"]}
    asked = ["node.labels.jupyter==true", "node.labels.gpu!=true"]
    assert template(body, settings)["Placement"] == {"Constraints": asked}
    body["task_template"]["placement"] = None
    assert template(body, settings)["Placement"] == {"Constraints": asked[:1]}
    body["task_template"]["placement"] = {"constraints": ["node.labels.jupyter!=true"]}
    assert template(body, settings)["Placement"]["Constraints"] == [asked[0], "node.labels.jupyter!=true"]


def test_a_launch_too_large_for_a_service_is_refused_with_its_size(settings: Settings) -> None:
    body = copy.deepcopy(BY_NAME["project_plain"])
    mounts = body["task_template"]["container_spec"]["mounts"]
    mounts += [
        {"source": f"/srv/xnat/archive/P1/{number}", "target": f"/data/{number}", "type": "bind", "read_only": True}
        for number in range(12_000)
    ]
    with pytest.raises(OptionsError, match=r"a service of [0-9]{7} bytes with 12004 container_spec\.mounts"):
        template(body, settings)


@pytest.mark.parametrize(
    ("resources", "cpus", "memory"),
    [
        (None, 2, 4 * 2**30),
        ({"cpu_reservation": 3.0, "mem_reservation": "6G"}, 3, 6 * 2**30),
        ({"cpu_reservation": 1.0, "mem_reservation": "1G"}, 2, 4 * 2**30),
        ({"cpu_limit": 1.0, "mem_limit": "1G"}, 1, 2**30),
    ],
    ids=["none", "reservations-above-the-default", "reservations-below", "limits"],
)
def test_every_server_has_limits(settings: Settings, resources: Any, cpus: int, memory: int) -> None:
    body = copy.deepcopy(BY_NAME["project_plain"])
    body["task_template"]["resources"] = resources
    limits = template(body, settings)["Resources"]["Limits"]
    assert limits == {"NanoCPUs": cpus * 10**9, "MemoryBytes": memory, "Pids": 4096}
