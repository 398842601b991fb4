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

from module_utils.xnat_site.bundle import BundleError, bundle, bundle_contents, bundle_outdated
from module_utils.xnat_site.storage import MOUNT_PACKAGES
from tests.unit.conftest import ROOT

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


def error_of(directory: Path, **needs: Any) -> str:
    with pytest.raises(BundleError) as caught:
        bundle(str(directory), **needs)
    return str(caught.value)


def test_a_whole_bundle_is_told_as_it_was_written(written: Path) -> None:
    manifest = bundle(str(written), images=[HUB], releases={"node1": "trixie"})
    assert manifest["images"] == WANTED["images"]
    assert manifest["packages"]["trixie"]["versions"] == ["adduser=3.152", "docker.io=26.1.5"]
    assert len(manifest["packages"]["trixie"]["index"]) == 64
    assert sorted(manifest["files"]) == ["images.tar", "packages/trixie.tar", "wheels/ansible-12-py3-none-any.whl"]


def test_nothing_of_a_bundle_that_is_as_wanted_is_written(written: Path) -> None:
    assert bundle_outdated(str(written), WANTED) == []


def test_all_of_a_bundle_that_is_not_there_is_written(tmp_path: Path) -> None:
    assert bundle_outdated(str(tmp_path / "new"), WANTED) == ["images.tar", "packages/trixie.tar", "wheels"]


def test_an_interrupted_bundle_is_none(written: Path) -> None:
    (written / "bundle.json").unlink()
    assert bundle_outdated(str(written), WANTED) == ["images.tar", "packages/trixie.tar", "wheels"]
    assert error_of(written) == (
        f"There is no bundle.json in {written}, so no whole bundle: write one with playbooks/bundle.yml"
    )


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"images": {HUB: "sha256:2"}}, ["images.tar"]),
        ({"images": {**WANTED["images"], "x:1": "sha256:2"}}, ["images.tar"]),
        ({"packages": {"trixie": ["adduser=3.152", "docker.io=26.1.6"]}}, ["packages/trixie.tar"]),
        ({"packages": {**WANTED["packages"], "bookworm": []}}, ["packages/bookworm.tar"]),
        ({"packages": {}}, []),
        ({"requirements": "1f"}, ["wheels"]),
    ],
)
def test_only_what_has_changed_is_written(written: Path, changes: dict[str, Any], parts: list[str]) -> None:
    assert bundle_outdated(str(written), {**WANTED, **changes}) == parts


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("images.tar", "images.tar"),
        ("packages/trixie.tar", "packages/trixie.tar"),
        ("wheels/ansible-12-py3-none-any.whl", "wheels"),
    ],
)
def test_what_is_broken_stops_a_site_and_is_written_again(written: Path, name: str, part: str) -> None:
    path = written / name
    whole = path.read_bytes()
    sentence = (
        f"{name} of the bundle in {written} is not as it was written: copy the bundle again, or make it anew with"
        " playbooks/bundle.yml"
    )
    path.write_bytes(whole[:-1])
    assert error_of(written, checksums=False) == sentence
    assert bundle_outdated(str(written), WANTED) == [part]
    path.write_bytes(whole[:-1] + b"?")
    assert error_of(written) == sentence
    bundle(str(written), checksums=False)
    path.unlink()
    assert error_of(written) == sentence


def test_a_missing_image_and_a_missing_release_are_named(written: Path) -> None:
    assert "lacks the image x/demo-xnat:1" in error_of(written, images=[HUB, "x/demo-xnat:1"])
    assert error_of(written, releases={"node1": "trixie", "node4": "bookworm"}) == (
        f"The bundle in {written} has packages for trixie, and node4 runs bookworm: write it (playbooks/bundle.yml) at"
        " a connected site that has such a host"
    )
    assert "node4 runs another system" in error_of(written, releases={"node4": ""})


@pytest.mark.parametrize("name", WANTED["settings"])
def test_a_bundle_for_another_site_is_refused_by_what_differs(written: Path, name: str) -> None:
    same = dict(WANTED["settings"])
    bundle(str(written), settings=same)
    error = error_of(written, settings={**same, name: "other"}, images=["x/lacking:1"])
    assert [setting for setting in same if setting in error] == [name]
    assert repr(same[name]) in error
    assert "'other'" in error


def test_a_bundle_for_other_machines_is_refused_by_the_first_host(written: Path) -> None:
    bundle(str(written), architectures={"node1": "x86_64"})
    error = error_of(written, architectures={"node1": "x86_64", "node2": "aarch64"})
    assert "node2" in error
    assert "aarch64" in error


def test_a_bundle_of_another_format_and_one_that_is_no_json_are_refused(written: Path) -> None:
    (written / "bundle.json").write_text('{"format": 1}')
    assert "was written by another version of the project" in error_of(written)
    (written / "bundle.json").write_text("{")
    assert "cannot be read" in error_of(written)


def test_a_bundle_without_all_of_its_files_is_not_completed(written: Path) -> None:
    with pytest.raises(
        BundleError, match=r"^packages/bookworm\.tar is missing in .*: run playbooks/bundle\.yml again$"
    ):
        bundle_contents(str(written), {**WANTED, "packages": {**WANTED["packages"], "bookworm": []}})


def test_what_is_no_repository_is_refused(written: Path) -> None:
    with tarfile.open(written / "packages/trixie.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("docker.io_26.1.5_amd64.deb"))
    with pytest.raises(BundleError, match=r"trixie\.tar has no index of its packages"):
        bundle_contents(str(written), WANTED)


def test_the_bundle_has_every_package_that_roles_install_by_name() -> None:
    bundled = {*DEFAULTS["offline_bundle_packages"], *DEFAULTS["offline_bundle_packages_if_installed"]}
    engine = yaml.safe_load((ROOT / "roles/docker_engine/vars/main.yml").read_text())["__docker_engine_packages"]["apt"]
    for origin in (engine["distribution"], engine["docker"]):
        assert {origin["engine"], *chain(*origin["beside"].values())} <= bundled
    assert {engine["python"], *engine["tools"], *chain(*MOUNT_PACKAGES.values())} <= bundled
