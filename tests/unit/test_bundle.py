"""An offline bundle is complete and fits the site, or a sentence says what to do."""

from __future__ import annotations

import io
import json
import tarfile
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from module_utils.xnat_site.bundle import (
    BundleError,
    amount,
    bundle,
    bundle_contents,
    bundle_outdated,
    bundle_summary,
    packages_to_bundle,
    simulated_packages,
)
from module_utils.xnat_site.storage import MOUNT_PACKAGES
from tests.unit.conftest import ROOT

VERSION = (ROOT / "VERSION").read_text().strip()
HUB = "localhost/xnat-jupyter/hub:3f9c0a1b2c3d"
DEFAULTS = yaml.safe_load((ROOT / "roles/offline_bundle/defaults/main.yml").read_text())
WANTED: dict[str, Any] = {
    "images": {HUB: "sha256:1"},
    "settings": {"site_uid": 1500, "site_gid": 1500, "hub_images_base": ""},
    "architecture": "x86_64",
    "packages": {"trixie": ["docker.io=26.1.5", "adduser=3.152"]},
    "requirements": "0f",
}


def write_packages(directory: Path, codename: str) -> None:
    (directory / "packages").mkdir(exist_ok=True)
    with tarfile.open(directory / f"packages/{codename}.tar", "w") as archive:
        for name, content in {"docker.io_26.1.5_amd64.deb": b"deb", "Packages": b"Package: docker.io\n"}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def complete(directory: Path, wanted: dict[str, Any] = WANTED) -> None:
    manifest = bundle_contents(str(directory), wanted)
    (directory / "bundle.json").write_text(json.dumps(manifest))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    (tmp_path / "images.tar").write_bytes(b"images")
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/ansible-12-py3-none-any.whl").write_bytes(b"wheel")
    write_packages(tmp_path, "trixie")
    complete(tmp_path)
    return tmp_path


def parts(directory: Path, wanted: dict[str, Any] = WANTED) -> list[str]:
    found: list[str] = bundle_outdated(str(directory), wanted)["parts"]
    return found


def error_of(directory: Path, **needs: Any) -> tuple[str, str]:
    """Return the id of the rule by which a bundle is refused, and the sentence."""
    with pytest.raises(BundleError) as caught:
        bundle(str(directory), **needs)
    return caught.value.id, str(caught.value)


def edit(directory: Path, **changes: Any) -> None:
    """Change bundle.json; None takes a key away."""
    path = directory / "bundle.json"
    edited = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in edited.items() if value is not None}))


def test_a_whole_bundle_is_told_as_it_was_written(written: Path) -> None:
    manifest = bundle(str(written), images=[HUB], releases={"node1": "trixie"})
    assert manifest["version"] == VERSION
    assert manifest["images"] == WANTED["images"]
    assert manifest["packages"]["trixie"]["versions"] == ["adduser=3.152", "docker.io=26.1.5"]
    assert len(manifest["packages"]["trixie"]["index"]) == 64
    assert sorted(manifest["files"]) == ["images.tar", "packages/trixie.tar", "wheels/ansible-12-py3-none-any.whl"]


def test_nothing_of_a_bundle_that_is_as_wanted_is_written(written: Path) -> None:
    assert bundle_outdated(str(written), WANTED) == {"images": False, "packages": (), "wheels": False, "parts": []}


def test_all_of_a_bundle_that_is_not_there_is_written(tmp_path: Path) -> None:
    assert bundle_outdated(str(tmp_path / "new"), WANTED) == {
        "images": True,
        "packages": ("trixie",),
        "wheels": True,
        "parts": ["images.tar", "packages/trixie.tar", "wheels"],
    }


def test_an_interrupted_bundle_is_none(written: Path) -> None:
    (written / "bundle.json").unlink()
    assert parts(written) == ["images.tar", "packages/trixie.tar", "wheels"]
    rule, sentence = error_of(written)
    assert rule == "absent"
    assert f"no bundle.json in {written}" in sentence
    assert "playbooks/bundle.yml" in sentence


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({"images": {HUB: "sha256:2"}}, ["images.tar"]),
        ({"images": {**WANTED["images"], "x:1": "sha256:2"}}, ["images.tar"]),
        ({"packages": {"trixie": ["adduser=3.152", "docker.io=26.1.6"]}}, ["packages/trixie.tar"]),
        ({"packages": {**WANTED["packages"], "bookworm": []}}, ["packages/bookworm.tar"]),
        ({"packages": {}}, []),
        ({"requirements": "1f"}, ["wheels"]),
    ],
    ids=["image", "further image", "newer package", "further release", "no release", "requirements"],
)
def test_only_what_has_changed_is_written(written: Path, changes: dict[str, Any], changed: list[str]) -> None:
    assert parts(written, {**WANTED, **changes}) == changed


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("images.tar", "images.tar"),
        ("packages/trixie.tar", "packages/trixie.tar"),
        ("wheels/ansible-12-py3-none-any.whl", "wheels"),
    ],
    ids=["images", "packages", "wheels"],
)
def test_what_is_broken_stops_a_site_and_is_written_again(written: Path, name: str, part: str) -> None:
    path = written / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    rule, sentence = error_of(written, checksums=False)
    assert rule == "damaged"
    assert f"{name} of the bundle in {written}" in sentence
    assert "playbooks/bundle.yml" in sentence
    assert parts(written) == [part]
    path.write_bytes(whole[:-1] + b"?")
    assert error_of(written) == (rule, sentence)
    bundle(str(written), checksums=False)
    path.unlink()
    assert error_of(written) == (rule, sentence)


def test_a_missing_image_and_a_missing_release_are_named(written: Path) -> None:
    rule, sentence = error_of(written, images=[HUB, "x/demo-xnat:1"])
    assert rule == "image"
    assert "x/demo-xnat:1" in sentence
    rule, sentence = error_of(written, releases={"node1": "trixie", "node4": "bookworm"})
    assert rule == "release"
    assert all(fact in sentence for fact in ("trixie", "node4", "bookworm"))
    assert "node4 runs another system" in error_of(written, releases={"node4": ""})[1]


@pytest.mark.parametrize("name", WANTED["settings"])
def test_a_bundle_for_another_site_is_refused_by_what_differs(written: Path, name: str) -> None:
    same = dict(WANTED["settings"])
    bundle(str(written), settings=same)
    rule, error = error_of(written, settings={**same, name: "other"}, images=["x/lacking:1"])
    assert rule == "settings"
    assert [setting for setting in same if setting in error] == [name]
    assert repr(same[name]) in error
    assert "'other'" in error


def test_a_bundle_for_other_machines_is_refused_by_the_first_host(written: Path) -> None:
    bundle(str(written), architectures={"node1": "x86_64"})
    rule, error = error_of(written, architectures={"node1": "x86_64", "node2": "aarch64"})
    assert rule == "architecture"
    assert "node2" in error
    assert "aarch64" in error


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"version": "0.0.9"}, "version 0.0.9"),
        ({"version": None}, "a version before 0.1.0"),
        ({"format": 1, "version": None}, "a version before 0.1.0"),
        ({"format": 3, "version": "9.0.0"}, "version 9.0.0"),
        ({"format": 1}, f"an earlier state of version {VERSION}"),
    ],
    ids=["other version", "no version", "old format", "newer format", "same version, other format"],
)
def test_a_bundle_of_another_version_is_refused_and_both_versions_are_named(
    written: Path, changes: dict[str, Any], named: str
) -> None:
    edit(written, **changes)
    rule, sentence = error_of(written, settings={"site_uid": "other"}, checksums=False)
    assert rule == "version"
    assert f"written by {named} of the project" in sentence
    assert f"this project is version {VERSION}: write it again" in sentence
    assert "playbooks/bundle.yml" in sentence


def test_of_a_bundle_of_another_version_only_what_differs_is_written_and_then_it_is_taken(written: Path) -> None:
    edit(written, version="0.0.9")
    assert parts(written) == []
    complete(written)
    assert bundle(str(written))["version"] == VERSION


@pytest.mark.parametrize("text", ["{", "[]"], ids=["broken off", "no object"])
def test_a_bundle_with_an_unreadable_description_is_refused(written: Path, text: str) -> None:
    (written / "bundle.json").write_text(text)
    assert error_of(written)[0] == "unreadable"


def test_a_bundle_without_all_of_its_files_is_not_completed(written: Path) -> None:
    with pytest.raises(BundleError, match=r"^packages/bookworm\.tar is missing") as caught:
        bundle_contents(str(written), {**WANTED, "packages": {**WANTED["packages"], "bookworm": []}})
    assert caught.value.id == "incomplete"


def test_what_is_no_repository_is_refused(written: Path) -> None:
    with tarfile.open(written / "packages/trixie.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("docker.io_26.1.5_amd64.deb"))
    with pytest.raises(BundleError, match=r"trixie\.tar has no index") as caught:
        bundle_contents(str(written), WANTED)
    assert caught.value.id == "index"


def test_the_bundle_has_every_package_that_roles_install_by_name() -> None:
    bundled = {*DEFAULTS["offline_bundle_packages"], *DEFAULTS["offline_bundle_packages_if_installed"]}
    engine = yaml.safe_load((ROOT / "roles/docker_engine/vars/main.yml").read_text())["__docker_engine_packages"]["apt"]
    for origin in (engine["distribution"], engine["docker"]):
        assert {origin["engine"], *chain(*origin["beside"].values())} <= bundled
    assert {engine["python"], *engine["tools"], *chain(*MOUNT_PACKAGES.values())} <= bundled


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0.00 Bytes"), (1023, "1023.00 Bytes"), (1024, "1.00 KB"), (1536, "1.50 KB"), (2**20, "1.00 MB"),
        (1_300_000_000, "1.21 GB"), (3 * 2**40, "3072.00 GB"),
    ],
)  # fmt: skip
def test_an_amount_is_in_the_largest_unit_that_fits(size: int, text: str) -> None:
    assert amount(size) == text


def test_a_summary_tells_what_a_bundle_holds_and_for_whom(written: Path) -> None:
    (written / "wheels/pip-26-py3-none-any.whl").write_bytes(b"123")
    complete(written)
    packed = amount((written / "packages/trixie.tar").stat().st_size)
    assert bundle_summary(str(written), ["3.11", "3.13"]).splitlines() == [
        f"{written} is a complete bundle:",
        "images.tar               6.00 Bytes",
        f"packages/trixie.tar      {packed}",
        "wheels/                  8.00 Bytes, for Python 3.11, 3.13",
        "It is for sites with hub_images_base , site_gid 1500, site_uid 1500 on x86_64 machines.",
    ]


def test_a_bundle_that_is_not_whole_has_no_summary(written: Path) -> None:
    (written / "images.tar").unlink()
    with pytest.raises(BundleError) as caught:
        bundle_summary(str(written), [])
    assert caught.value.id == "damaged"


def test_packages_that_a_host_has_are_bundled_besides_those_that_every_bundle_has() -> None:
    states = {"docker.io": "installed", "docker-ce": "absent", "containerd.io": "half-installed", "a": "installed"}
    packages = {name: {"status": status, "version": "1"} for name, status in states.items()}
    assert packages_to_bundle(["sshfs", "apparmor"], packages) == ["sshfs", "apparmor", "a", "docker.io"]
    assert packages_to_bundle(["sshfs"], {}) == ["sshfs"]


SIMULATED = """\
Reading package lists...
The following NEW packages will be installed:
  adduser docker.io
Inst docker.io (26.1.5+dfsg1-9+b11 Debian:13.2/stable [amd64])
Inst libc6:i386 [2.40-1] (2.41-12 Debian:13.2/stable [i386]) []
Inst adduser (3.152 Debian:13.2/stable [all])
Conf adduser (3.152 Debian:13.2/stable [all])
"""


def test_names_and_versions_are_read_of_what_apt_would_install() -> None:
    assert simulated_packages(SIMULATED.splitlines()) == [
        "adduser=3.152",
        "docker.io=26.1.5+dfsg1-9+b11",
        "libc6:i386=2.41-12",
    ]
    assert simulated_packages([]) == []


@pytest.mark.parametrize("line", ["Inst adduser", "Inst adduser 3.152", "Inst  (3 x)"])
def test_what_apt_writes_and_is_not_understood_is_an_error(line: str) -> None:
    with pytest.raises(BundleError) as caught:
        simulated_packages([line])
    assert caught.value.id == "apt"
    assert repr(line) in str(caught.value)
