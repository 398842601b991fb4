"""The audit log of a real site: what is in it, who can read it, and what it says when it is asked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.site.conftest import ROOT, Playbooks, Server, Site, wait_for

VOLUME = "/var/lib/docker/volumes/jupyterhub-audit/_data"
AUDIT_YML = "playbooks/audit.yml"
Line = dict[str, Any]


@pytest.fixture(scope="module")
def plays() -> Playbooks:
    return Playbooks(ROOT / "molecule/inventory")


def lines(site: Site, since: float, fits: Callable[[Line], bool]) -> list[Line]:
    """Return the audit lines that fit, of the last files on the node."""
    text = site.on_node("sh", "-c", f"ls {VOLUME}/*.jsonl | tail -n 2 | xargs cat")
    begin = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since - 1))
    return [line for line in map(json.loads, text.splitlines()) if line["time"] >= begin and fits(line)]


def of(server: Server) -> Callable[[Line], bool]:
    return lambda line: line.get("server") == server.name and "round" not in line


def test_a_launch_is_recorded_from_its_start_to_its_end(site: Site, plays: Playbooks, tmp_path: Path) -> None:
    server = site.launch()
    assert site.outcome(server), site.hub_log(server.began)
    service = site.service(server)["Spec"]["Name"]
    wait_for("node", lambda: [line for line in lines(site, server.began, of(server)) if line["event"] == "running"], 10)
    running = plays.play(AUDIT_YML, "-e", "project=DEMO_MR", "-e", "person=jdoe")
    assert "still running" in running.text
    assert running.changed() == set()
    site.stop(server)
    found = wait_for("end", lambda: [line for line in lines(site, server.began, of(server)) if line["event"] == "end"])
    assert found[0]["node"] == "node0"
    launch, placed, stop, _ = lines(site, server.began, of(server))
    assert [line["event"] for line in (launch, placed, stop)] == ["launch", "running", "stop"]
    assert {line["service"] for line in (launch, placed, stop)} == {service}
    assert (launch["user"], launch["project"], launch["item"], launch["result"]) == (
        "jdoe", "DEMO_MR", "XNAT_E00001", "started",
    )  # fmt: skip
    assert launch["image_id"] == site.docker.inspect_image(launch["image"])["Id"]
    modes = {mount["target"].split("/")[1]: mount["mode"] for mount in launch["mounts"]}
    assert modes == {"data": "ro", "workspace": "rw"}
    assert any("DEMO_MR" in mount["source"] for mount in launch["mounts"])

    file = tmp_path / "answer.json"
    text = plays.play(AUDIT_YML, "-e", "person=jdoe", "-e", f"audit_file={file}").text
    assert all(mount["source"] in text for mount in launch["mounts"])
    (one,) = [each for each in json.loads(file.read_text())["launches"] if each["server"] == server.name]
    assert (one["state"], one["node"], one["from"]) == ("ended", "node0", launch["time"])
    assert one["from"] < one["until"]
    assert "No launch matches" in plays.play(AUDIT_YML, "-e", "project=NONE").text
    plays.play(AUDIT_YML, code=2)


def test_log_ins_are_recorded_once_with_their_address(site: Site, plays: Playbooks) -> None:
    began = time.time()
    for user, password in (("jdoe", None), ("nobody", "wrong")):
        site.browser(user, password)

    def log_ins() -> list[Line]:
        return lines(site, began, lambda line: line["event"] == "log_in" and line["user"] in ("jdoe", ""))

    wait_for("log-ins", lambda: len(log_ins()) >= 2, 10)
    assert [(line["user"], line["result"], line["reason"]) for line in log_ins()] == [
        ("jdoe", "ok", "accepted"),
        ("", "refused", "credentials"),  # it may be a password
    ]
    text = plays.play(AUDIT_YML, "-e", "person=nobody").text
    assert 'as "nobody"' in text  # who knows the name finds it
    assert all(line["source"].count(".") == 3 for line in log_ins())


def test_only_root_reads_the_log_and_it_has_no_secret(site: Site) -> None:
    server = site.launch()
    assert site.outcome(server), site.hub_log(server.began)
    code, token = site.run(server, '. /run/secrets/server-env; echo "$XNAT_PASS" "$JUPYTERHUB_API_TOKEN"')
    assert code == 0
    site.stop(server)
    modes = site.on_node("sh", "-c", f"stat -c '%u:%g %a' {VOLUME} {VOLUME}/*").split("\n")
    assert modes[0] == "0:0 700"
    assert set(filter(None, modes[1:])) == {"0:0 600"}
    text = site.on_node("sh", "-c", f"cat {VOLUME}/*.jsonl")
    values = [*token.split(), site.password, site.admin_password]
    assert [value for value in values if value in text] == []
    assert len(values) == 4


@contextmanager
def unwritable(site: Site) -> Iterator[None]:
    """Make the file of today one that cannot be written, and have it back at the end."""
    file = f"{VOLUME}/{time.strftime('%Y-%m-%d', time.gmtime())}.jsonl"
    site.on_node("sh", "-c", f"cp -a {file} {file}.kept && rm {file} && mkdir {file}")
    try:
        yield
    finally:
        site.on_node("sh", "-c", f"rmdir {file} && mv {file}.kept {file}")


def test_a_launch_that_cannot_be_recorded_is_refused_and_an_end_is_recorded_later(site: Site) -> None:
    running = site.launch()
    assert site.outcome(running), site.hub_log(running.began)
    wait_for("node", lambda: len(lines(site, running.began, of(running))) == 2)
    with unwritable(site):
        server = site.launch()
        assert not site.outcome(server)
        log = site.hub_log(server.began)
        assert "jupyterhub-audit" in log
        assert "jupyterhub_audit_failure" in log
        site.stop(running)
        assert not site.left()
    fits = of(running)
    ended = wait_for("end", lambda: [line for line in lines(site, running.began, fits) if line["event"] == "end"])
    assert ended[0]["node"] == "node0"
    assert [line["event"] for line in lines(site, running.began, fits)] == ["launch", "running", "stop", "end"]
