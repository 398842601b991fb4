"""What a node mounts for each row of the storage table, and how nodes with different files are found."""

from __future__ import annotations

import re
from typing import Any

import pytest

from module_utils.xnat_launcher.policy import MountError
from module_utils.xnat_site.storage import (
    mount_policy,
    mount_unit,
    node_mounts,
    storage_disagreements,
    storage_rows,
)
from tests.hub_settings import STORAGE

NFS = {"type": "nfs", "server": "nfs.example.org", "path": "/xnat/archive"}
CIFS = {"type": "cifs", "server": "nas.example.org", "path": "/xnat/archive"}
SSHFS = {"type": "sshfs", "server": "xnat.example.org", "path": "/data/archive", "user": "xnat"}


def table(source: object, row: str = "archive") -> dict[str, Any]:
    return {**STORAGE, row: {**STORAGE[row], "source": source}}


def mounted(source: object, row: str = "archive", host: str = "node1") -> dict[str, Any]:
    return next(entry for entry in node_mounts(table(source, row), host, 1500, 1600) if entry["name"] == row)


def test_without_a_source_somebody_else_mounts() -> None:
    assert node_mounts(STORAGE, "node1", 1500, 1500)[0] == {
        "name": "archive",
        "path": "/srv/xnat/archive",
        "type": "mounted",
        "create": False,
        "access": "read_only",
        "sentinel": "",
        "src": "",
        "fstype": "",
        "opts": "",
        "unit": "",
        "packages": [],
    }


@pytest.mark.parametrize(
    ("source", "row", "line", "packages"),
    [
        (
            NFS,
            "archive",
            "nfs.example.org:/xnat/archive nfs ro,nfsvers=4.2,hard,_netdev,nosuid,nodev,x-xnat-jupyter",
            ["nfs-common"],
        ),
        (
            {**NFS, "options": ["vers=3", "soft", "timeo=100"]},
            "workspaces",
            "nfs.example.org:/xnat/archive nfs rw,vers=3,soft,_netdev,nosuid,nodev,timeo=100,x-xnat-jupyter",
            ["nfs-common"],
        ),
        (
            {**NFS, "server": "2001:db8::1", "path": "/"},
            "archive",
            "[2001:db8::1]:/ nfs ro,nfsvers=4.2,hard,_netdev,nosuid,nodev,x-xnat-jupyter",
            ["nfs-common"],
        ),
        (
            CIFS,
            "workspaces",
            "//nas.example.org/xnat/archive cifs rw,credentials=/etc/xnat-jupyter/storage_cifs,uid=1500,gid=1600,"
            "forceuid,forcegid,file_mode=0640,dir_mode=0750,_netdev,nosuid,nodev,x-xnat-jupyter",
            ["cifs-utils"],
        ),
        (
            {**CIFS, "options": ["guest"]},
            "archive",
            "//nas.example.org/xnat/archive cifs ro,guest,uid=1500,gid=1600,"
            "forceuid,forcegid,file_mode=0640,dir_mode=0750,_netdev,nosuid,nodev,x-xnat-jupyter",
            ["cifs-utils"],
        ),
        (
            {**SSHFS, "options": ["ServerAliveInterval=5", "Port=2222"]},
            "archive",
            "xnat@xnat.example.org:/data/archive fuse.sshfs ro,_netdev,allow_other,default_permissions,reconnect,"
            "ServerAliveInterval=5,ServerAliveCountMax=3,ConnectTimeout=15,BatchMode=yes,"
            "IdentityFile=/etc/xnat-jupyter/storage_key,StrictHostKeyChecking=yes,"
            "UserKnownHostsFile=/etc/xnat-jupyter/storage_known_hosts,nosuid,nodev,Port=2222,x-xnat-jupyter",
            ["sshfs"],
        ),
        (
            {"type": "bind", "path": "/mnt/archive/"},
            "archive",
            "/mnt/archive none ro,bind,nofail,x-xnat-jupyter",
            [],
        ),
    ],
)
def test_each_type_has_its_line_in_fstab(source: object, row: str, line: str, packages: list[str]) -> None:
    entry = mounted(source, row)
    assert f"{entry['src']} {entry['fstype']} {entry['opts']}" == line
    assert entry["packages"] == packages
    assert entry["unit"] == f"srv-xnat-{row}.mount"


def test_the_server_uses_its_own_directory() -> None:
    source = {**NFS, "server_host": "node1", "create": True, "options": ["vers=3"], "sentinel": "./x//y"}
    here = mounted(source)
    assert (here["type"], here["src"], here["opts"]) == ("bind", "/xnat/archive", "ro,bind,nofail,x-xnat-jupyter")
    assert (here["create"], here["packages"], here["sentinel"]) == (True, [], "x/y")
    elsewhere = mounted(source, host="node2")
    assert (elsewhere["type"], elsewhere["create"]) == ("nfs", False)
    plain = mounted({**source, "path": "/srv/xnat/archive"})
    assert (plain["type"], plain["src"], plain["opts"], plain["unit"]) == ("directory", "", "", "")


def test_a_directory_is_made_where_the_table_says_so() -> None:
    assert mounted({"type": "directory", "create": True})["create"] is True
    assert mounted({"type": "directory"})["create"] is False


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nfs", " must be a mapping with type and the keys of that type"),
        ({"type": "ceph"}, ".type is 'ceph': set it to mounted, directory, bind, nfs, cifs, sshfs"),
        ({"type": ["nfs"]}, ".type is ['nfs']: set it to mounted, directory, bind, nfs, cifs, sshfs"),
        ({"type": "nfs", "path": "/x"}, ".server is missing: set the server's name or address"),
        ({**NFS, "server": "-o x"}, ".server '-o x' is not valid: set the server's name or address"),
        ({**NFS, "path": None}, ".path is missing: set an absolute path"),
        ({**NFS, "path": "xnat"}, ".path 'xnat' is not an absolute path"),
        ({**NFS, "path": "/xnat/../etc"}, ".path '/xnat/../etc' contains '..', which is not allowed"),
        (
            {**NFS, "path": "/my data"},
            ".path '/my data' contains a space, a quote or one of # & \\ , which mounts do not support",
        ),
        ({**CIFS, "path": "/"}, ".path must not be the root directory '/'"),
        ({**SSHFS, "user": ""}, ".user is missing: set the login on the server"),
        ({**SSHFS, "user": "-l x"}, ".user '-l x' is not valid: set the login on the server"),
        ({"type": "bind"}, ".path is missing: set an absolute path"),
        (
            {"type": "bind", "path": "/srv/xnat/archive"},
            ".path is the node_path itself: set source.type to directory",
        ),
        (
            {"type": "directory", "server": "x"},
            ".server is not valid for the type directory: use type, sentinel, create",
        ),
        ({"create": True}, ".create is not valid for the type mounted: use type, sentinel"),
        (
            {**NFS, "usr": "x"},
            ".usr is not valid for the type nfs: use type, server, path, sentinel, create, server_host, options",
        ),
        ({"type": "directory", "create": "yes"}, ".create is 'yes': set it to true or false"),
        ({**NFS, "create": True}, ".create needs server_host: directories are created on nodes only"),
        ({**NFS, "server_host": ""}, ".server_host must be the server's name in the inventory"),
        (
            {**NFS, "path": "/", "server_host": "node1"},
            ".server_host needs a path other than '/'",
        ),
        ({"sentinel": ""}, ".sentinel is empty: set a path below node_path, or remove it"),
        ({"sentinel": "/etc/x"}, ".sentinel '/etc/x' must be relative to node_path"),
        ({"sentinel": "../x"}, ".sentinel '/../x' contains '..', which is not allowed"),
        ({**NFS, "options": "soft"}, ".options must be a list of mount options"),
        (
            {**NFS, "options": ["soft,intr"]},
            ".options contains 'soft,intr': write each mount option as a list entry of its own",
        ),
        ({**NFS, "options": ["rw"]}, ".options contains 'rw': set the row's access instead"),
        (
            {**CIFS, "options": ["password=x"]},
            ".options contains a password, which every user of the node could read in /etc/fstab",
        ),
    ],
)
def test_a_bad_source_is_refused_with_row_and_key(source: object, message: str) -> None:
    with pytest.raises(MountError, match=re.escape(f"site_storage.archive.source{message}") + "$"):
        storage_rows(table(source))


def test_the_mount_point_of_a_mount_has_no_blank() -> None:
    row = {**STORAGE["archive"], "node_path": "/srv/my archive"}
    assert storage_rows({**STORAGE, "archive": row})
    with pytest.raises(MountError, match=r"archive\.node_path '/srv/my archive' contains a space"):
        storage_rows({**STORAGE, "archive": {**row, "source": NFS}})


def test_the_policy_does_not_depend_on_the_source() -> None:
    assert mount_policy(table(NFS)) == mount_policy(STORAGE)


@pytest.mark.parametrize(
    ("path", "unit"),  # as systemd-escape --path --suffix=mount says
    [
        ("/data/xnat", "data-xnat.mount"),
        ("/data/x-y/.z", r"data-x\x2dy-.z.mount"),
        ("/.data", r"\x2edata.mount"),
        ("/dä/x%y", r"d\xc3\xa4-x\x25y.mount"),
    ],
)
def test_mount_units_are_named_as_systemd_names_them(path: str, unit: str) -> None:
    assert mount_unit(path) == unit


def seen(word: str = "a", owner: str = "1500:1500") -> list[dict[str, Any]]:
    return [
        {"name": "archive", "path": "/data/archive", "token": "", "owner": owner},
        {"name": "workspaces", "path": "/data/workspaces", "token": word, "owner": "1500:1500"},
    ]


def test_nodes_that_see_the_same_do_not_disagree() -> None:
    assert storage_disagreements({}) == []
    assert storage_disagreements({"n1": seen(), "n2": seen(), "n3": seen("")}) == []
    assert storage_disagreements({"n1": seen(), "n2": []}) == []


def test_nodes_that_see_another_directory_are_named() -> None:
    (sentence,) = storage_disagreements({"n1": seen(), "n2": seen(), "n3": seen("b")})
    for fact in ("site_storage.workspaces: /data/workspaces", "n1, n2; n3", ".xnat-jupyter-storage"):
        assert fact in sentence


def test_nodes_that_see_another_owner_are_named() -> None:
    (sentence,) = storage_disagreements({"n1": seen(), "n2": seen(owner="65534:65534")})
    assert "site_storage.archive: /data/archive belongs to 1500:1500 on n1, 65534:65534 on n2" in sentence
