"""The plan of the images: equal input gives equal names."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import context_archive
import pytest
import yaml

from module_utils.xnat_site.images import (
    ImageError,
    build_rounds,
    further_images,
    image_builds,
    image_plan,
    lacking_images,
    missing_images,
    pulled_images,
    server_images,
    site_images,
)
from tests.unit.conftest import ROOT

VERSION = yaml.safe_load((ROOT / "roles/hub_images/defaults/main.yml").read_text())["hub_images_jupyterhub_version"]


def plan(files: Path, **changes: Any) -> dict[str, dict[str, Any]]:
    wanted: dict[str, Any] = {
        "prefix": "x", "base": "", "revision": 1, "jupyterhub_version": VERSION, "hub_uid": 1000, "notebook_uid": 1500,
        "notebook_gid": 1500, "dashboards": False,
    }  # fmt: skip
    return image_plan(str(files), **{**wanted, **changes})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    ignore = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(ROOT / "files", tmp_path / "files", symlinks=True, ignore=ignore))


def names(planned: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: spec["image"] for name, spec in planned.items()}


def test_the_same_files_elsewhere_have_the_same_names(files: Path) -> None:
    before = names(plan(ROOT / "files"))
    (files / "xnat_hub/__pycache__").mkdir()
    (files / "xnat_hub/__pycache__/x.pyc").write_bytes(b"x")
    assert names(plan(files)) == before
    assert all(re.fullmatch(r"x/[a-z-]+:[0-9a-f]{12}", name) for name in before.values())


RUNTIME = {"runtime", "assets", "hub", "launcher", "verify"}


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("xnat_hub/spawner.py", {"hub"}),
        ("xnat_launcher/policy.py", {"launcher"}),
        ("xnat_verify/checks.py", {"verify"}),
        ("xnat_wire/rest.py", {"hub", "launcher", "verify"}),
        ("jupyterhub_config.py", {"hub"}),
        ("templates/home.html", {"hub"}),
        ("hub/Dockerfile", {"hub"}),
        ("assets/collect.py", {"assets", "hub"}),
        ("singleuser/xnat_notebook/lab_files.py", {"assets", "hub", "singleuser", "demo_xnat"}),
        ("launcher/Dockerfile", {"launcher"}),
        ("xnat_guard/rules.py", {"guard"}),
        ("verify/Dockerfile", {"verify"}),
        ("runtime/Dockerfile", RUNTIME),
        ("runtime/package-lock.json", RUNTIME),
        ("runtime/requirements.txt", RUNTIME),
        ("runtime/relay.py", RUNTIME),
        ("singleuser/requirements.lock", {"singleuser", "demo_xnat"}),
        ("singleuser/lean_start.py", {"singleuser", "demo_xnat"}),
        ("singleuser/dashboard_proxy.py", {"singleuser", "demo_xnat"}),
        ("demo_xnat/page.html", {"demo_xnat"}),
        ("registry/config.yml", {"registry"}),
        ("egress/forward-proxy", {"egress"}),
        ("egress/errors/ERR_NOTEBOOK_EGRESS", {"egress"}),
        ("edge/edge.py", {"edge"}),
        ("healthy", RUNTIME | {"edge", "egress", "registry", "demo_xnat"}),
    ],
)
def test_a_change_renames_what_holds_it_and_what_is_above(files: Path, path: str, changed: set[str]) -> None:
    before = names(plan(files))
    with (files / path).open("a") as file:
        file.write("\n")
    after = names(plan(files))
    assert {name for name in after if after[name] != before[name]} == changed


def test_a_new_file_in_a_folder_renames_its_images(files: Path) -> None:
    before = names(plan(files))
    (files / "xnat_hub/pages").mkdir()
    (files / "xnat_hub/pages/new.py").touch()
    after = plan(files)
    assert {name for name in before if names(after)[name] != before[name]} == {"hub"}
    assert "xnat_hub/pages/new.py" in [pair["dest"] for pair in after["hub"]["files"]]


def test_no_image_holds_anything_outside_of_the_folder_files() -> None:
    # So no change of a filter, a module, a role or the control node's logic renames an image.
    sources = {Path(pair["src"]).resolve() for spec in plan(ROOT / "files").values() for pair in spec["files"]}
    assert all(path.is_relative_to(ROOT / "files") for path in sources)
    for folder in ("module_utils", "filter_plugins", "library", "roles"):
        own = {path for path in (ROOT / folder).rglob("*") if path.is_file() and not path.is_symlink()}
        assert own
        assert not own & sources


def test_every_file_is_in_an_image() -> None:
    sources = {Path(pair["src"]).resolve() for spec in plan(ROOT / "files").values() for pair in spec["files"]}
    there = {path for path in (ROOT / "files").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path.resolve() for path in there} == sources


def test_an_archive_holds_what_a_link_leads_to(tmp_path: Path) -> None:
    context = plan(ROOT / "files")["runtime"]["files"]
    context_archive.pack(str(tmp_path / "x.tar"), context)
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert archive.getnames() == [pair["dest"] for pair in context]
        member = archive.getmember("healthy")
        content = archive.extractfile(member)
        assert member.isfile()
        assert content
        assert content.read() == (ROOT / "files/healthy").read_bytes()


EVERY = {
    "base", "runtime", "assets", "hub", "launcher", "egress", "verify", "guard", "singleuser", "registry", "demo_xnat",
    "edge",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"revision": 2}, EVERY),
        ({"base": "debian:13"}, EVERY),
        ({"notebook_uid": 7}, {"singleuser", "demo_xnat"}),
        ({"hub_uid": 7}, RUNTIME | {"edge", "egress", "registry"}),
        ({"dashboards": True}, {"singleuser", "demo_xnat"}),
    ],
    ids=["revision", "base", "notebook_uid", "hub_uid", "dashboards"],
)
def test_a_setting_renames_what_depends_on_it(change: dict[str, Any], changed: set[str]) -> None:
    before, after = names(plan(ROOT / "files")), names(plan(ROOT / "files", **change))
    assert {name for name in after if after[name] != before[name]} == changed


def test_a_bundle_says_of_every_setting_that_renames_images_what_it_is() -> None:
    role = ROOT / "roles/hub_images"
    call = (role / "tasks/plan.yml").read_text().partition("xnat_image_plan(")[2].partition("}}")[0]
    told = yaml.safe_load((role / "vars/main.yml").read_text())["__hub_images_settings"]
    settings = {name for text in told.values() for name in re.findall(r"hub_images_\w+", text)}
    assert settings == set(re.findall(r"hub_images_\w+", call)) - {"hub_images_jupyterhub_version"}  # of the lock files
    defaults = yaml.safe_load((role / "defaults/main.yml").read_text())
    for name, text in told.items():
        assert name in text or name in defaults[re.findall(r"hub_images_\w+", text)[0]]


def test_a_context_has_its_dockerfile_and_every_file_once() -> None:
    for name, spec in plan(ROOT / "files").items():
        destinations = [pair["dest"] for pair in spec["files"]]
        assert len(destinations) == len(set(destinations))
        assert name == "base" or spec["dockerfile"] in destinations
        assert all(Path(pair["src"]).is_file() for pair in spec["files"])


DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("quay.io/jupyter/scipy-notebook:2026-01-05", "p/further/quay.io/jupyter/scipy-notebook:2026-01-05"),
        (f"quay.io/jupyter/scipy@sha256:{DIGEST}", "p/further/quay.io/jupyter/scipy:0123456789ab"),
        ("Registry.example.org:5000/team/x", "p/further/registry.example.org-5000/team/x:latest"),
        ("my_org/x.y:1_0", "p/further/my_org/x.y:1_0"),
        ("scipy:1", "p/further/scipy:1"),
        ("localhost:5000/x:1", "p/further/localhost-5000/x:1"),
        ("localhost/team/x:1", "localhost/team/x:1"),
        ("localhost/team/x", "localhost/team/x:latest"),
    ],
)
def test_an_image_from_elsewhere_has_a_name_on_the_nodes_that_no_registry_knows(source: str, name: str) -> None:
    assert further_images([source, source], "p") == [{"name": name, "source": source}]


@pytest.mark.parametrize(
    "source",
    ["", "x y", "https://quay.io/x", "quay.io/x:", "quay.io/x@sha256:12", f"x:1@sha256:{DIGEST}", "a//b", "-x"],
)
def test_what_is_no_image_is_refused_by_name(source: str) -> None:
    with pytest.raises(ImageError) as caught:
        further_images(["quay.io/x:1", source], "p")
    assert repr(source) in str(caught.value)
    assert "hub_images_further_singleuser" in str(caught.value)


def test_two_images_that_would_have_one_name_are_refused() -> None:
    with pytest.raises(ImageError, match="r:5000/x:1 and r-5000/x:1"):
        further_images(["r:5000/x:1", "r-5000/x:1"], "p")


ALL = [
    "runtime",
    "assets",
    "hub",
    "launcher",
    "egress",
    "verify",
    "guard",
    "singleuser",
    "registry",
    "demo_xnat",
    "edge",
]
ROUNDS = [["runtime", "egress", "guard", "singleuser"], ["assets", "launcher", "verify"], ["hub"]]


@pytest.mark.parametrize(
    ("wanted", "rounds"),
    [
        (
            ALL,
            [
                ["runtime", "egress", "guard", "singleuser", "registry", "edge"],
                ["assets", "launcher", "verify", "demo_xnat"],
                ["hub"],
            ],
        ),
        (["hub", "singleuser"], [["hub", "singleuser"]]),  # the runtime is there already
        ([], []),
    ],
    ids=["all", "some", "none"],
)
def test_images_that_need_none_of_each_other_are_built_at_once(wanted: list[str], rounds: list[list[str]]) -> None:
    assert build_rounds(wanted, plan(ROOT / "files")) == rounds


@pytest.mark.parametrize(
    ("registry", "demo_xnat", "edge", "expected"),
    [
        pytest.param(False, False, False, ALL[:8], id="one-node"),
        pytest.param(True, False, False, ALL[:9], id="several-nodes"),
        pytest.param(False, True, False, [*ALL[:8], "demo_xnat"], id="demo"),
        pytest.param(False, False, True, [*ALL[:8], "edge"], id="edge"),
        pytest.param(True, True, True, ALL, id="all"),
    ],
)
def test_a_site_runs_what_every_site_does_and_what_it_has_besides(
    registry: bool, demo_xnat: bool, edge: bool, expected: list[str]
) -> None:
    whole = plan(ROOT / "files")
    found = site_images(whole, registry=registry, demo_xnat=demo_xnat, edge=edge)
    assert list(found.items()) == [(name, whole[name]["image"]) for name in expected]


def inspected(*names: str) -> list[dict[str, Any]]:
    """Images as Docker tells of them, one of them without a name."""
    return [{"RepoTags": [name, f"other/{name}"]} for name in names] + [{"RepoTags": None}, {}]


@pytest.mark.parametrize(
    ("has", "missing"),
    [((), ["a:1", "b:1"]), (("b:1",), ["a:1"]), (("a:1", "b:1"), []), (("a:2", "x/b:1"), ["a:1", "b:1"])],
    ids=["none", "some", "all", "others"],
)
def test_an_image_is_missing_where_no_image_has_its_name(has: tuple[str, ...], missing: list[str]) -> None:
    assert missing_images(["a:1", "b:1"], inspected(*has)) == missing


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        pytest.param([], (ALL[:8], ROUNDS, True), id="nothing"),
        pytest.param(["base"], (ALL[:8], ROUNDS, False), id="base"),
        pytest.param(["base", *ALL[:7]], (["singleuser"], [["singleuser"]], False), id="one-is-missing"),
        pytest.param(ALL[:8], ([], [], False), id="the-base-is-missing-and-not-needed"),
        pytest.param(["base", *ALL], ([], [], False), id="all"),
    ],
)
def test_what_is_missing_is_built_and_the_base_first_if_it_is_needed(
    has: list[str], expected: tuple[list[str], list[list[str]], bool]
) -> None:
    whole = plan(ROOT / "files")
    wanted = site_images(whole, registry=False, demo_xnat=False, edge=False)
    found = image_builds(whole, wanted, inspected(*(whole[name]["image"] for name in has)))
    assert (found["names"], found["rounds"], found["base"]) == expected


def test_of_pulled_images_ids_sizes_and_those_from_elsewhere_are_told() -> None:
    own = {"name": "p/hub:1", "id": "sha256:1", "source": ""}
    other = {"name": "p/further/x:1", "id": "sha256:2", "source": "quay.io/x:1"}
    assert pulled_images({"images": [own, other], "sizes": {"p/hub:1": 211_600_000, "p/further/x:1": 400_000}}) == {
        "ids": {"p/hub:1": "sha256:1", "p/further/x:1": "sha256:2"},
        "further": [other],
        "report": ["p/hub:1: 212 MB", "p/further/x:1: 0 MB"],
    }
    assert pulled_images({"images": [], "sizes": {}}) == {"ids": {}, "further": [], "report": []}  # in check mode


@pytest.mark.parametrize(
    ("tags", "further", "expected"),
    [
        pytest.param([], [], {"p/singleuser:2": "p/singleuser:2"}, id="the-planned-one-alone"),
        pytest.param(["p/singleuser:2", "p/singleuser:1", "p/hub:1", "x/p/singleuser:1", "p/singleuser-x:1"], [],
                     {"p/singleuser:1": "p/singleuser:1", "p/singleuser:2": "p/singleuser:2"}, id="earlier-ones"),
        pytest.param([], [{"name": "p/further/x:1", "source": "quay.io/x:1"}],
                     {"p/singleuser:2": "p/singleuser:2", "quay.io/x:1": "p/further/x:1"}, id="from-elsewhere"),
    ],
)  # fmt: skip
def test_servers_start_from_what_rollouts_have_built_and_from_what_comes_from_elsewhere(
    tags: list[str], further: list[dict[str, str]], expected: dict[str, str]
) -> None:
    listed: list[dict[str, Any]] = [{"RepoTags": tags}, {"RepoTags": None}, {}]
    found = server_images({"singleuser": {"image": "p/singleuser:2"}}, "p", further, listed)
    assert list(found.items()) == list(expected.items())


IDS = {
    "runtime": "r1", "hub": "h1", "launcher": "l1", "egress": "g1", "verify": "v1", "guard": "w1", "user": "u1",
    "demo": "d1", "extra": "e1", "edge": "f1", "assets": "a1",
}  # fmt: skip
NAMES = {
    "runtime": "runtime", "hub": "hub", "launcher": "launcher", "egress": "egress", "verify": "verify",
    "guard": "guard", "singleuser": "user", "demo_xnat": "demo", "registry": "registry",
    "edge": "edge", "assets": "assets",
}  # fmt: skip


@pytest.mark.parametrize(
    ("has", "ids", "further", "expected"),
    [
        ({"m2": IDS, "w1": IDS, "x1": IDS}, IDS, [], {}),
        ({}, IDS, [],
         {"m2": ["guard", "user", "runtime", "assets", "hub", "launcher", "egress", "verify"],
          "w1": ["guard", "user", "edge"], "x1": ["demo"]}),
        ({"w1": {**IDS, "user": "u0"}, "m2": {**IDS, "hub": "h0"}, "x1": IDS}, IDS, [],
         {"w1": ["user"], "m2": ["hub"]}),
        ({"m2": {**IDS, "extra": "e0"}, "w1": IDS, "x1": IDS}, IDS, ["extra"], {"m2": ["extra"]}),
        ({}, {"hub": "h1"}, ["extra"], {"m2": ["hub"]}),  # what the builder does not have is asked of nobody
    ],
)  # fmt: skip
def test_hosts_that_answer_lack_what_the_builder_has_by_another_id_or_alone(
    has: dict[str, dict[str, str]], ids: dict[str, str], further: list[str], expected: dict[str, list[str]]
) -> None:
    groups = {"w1": ["edges"], "x1": ["demo_xnat"]}
    roles = {"m1": "manager", "m2": "manager", "w1": "worker", "w2": "worker", "x1": ""}
    hosts = {name: {"role": role, "groups": groups.get(name, [])} for name, role in roles.items()}
    images = {name: has.get(name, {}) for name in ("m1", "m2", "w1", "x1")}  # w2 does not answer
    plan = {key: {"image": name} for key, name in NAMES.items()}
    assert lacking_images(images, hosts, ids, plan, further, "m1") == expected
    assert lacking_images({"m1": {}}, hosts, ids, plan, further, "m1") == {}


def test_another_jupyterhub_than_the_lock_files_pin_is_refused() -> None:
    with pytest.raises(
        ImageError, match=r"pins JupyterHub 5\.\d+\.\d+, but hub_images_jupyterhub_version is 5\.0\.0: run"
    ):
        plan(ROOT / "files", jupyterhub_version="5.0.0")


def test_a_requirement_that_was_not_locked_is_refused(files: Path) -> None:
    with (files / "singleuser/requirements.txt").open("a") as file:
        file.write("Some_New.package>=1  # comment\n")
    with pytest.raises(ImageError, match=r"lists Some_New\.package, which requirements\.lock does not pin"):
        plan(files)


@pytest.mark.parametrize("version", ["6.1.1", "4.0.2"])
def test_another_jupyterhub_than_5_is_refused(version: str) -> None:  # contract 6.29
    with pytest.raises(ImageError, match=r"set it to 5\.x"):
        plan(ROOT / "files", jupyterhub_version=version)
