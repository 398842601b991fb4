"""The site as an administrator deploys it: a second run, a removal, and what comes back after it."""

from __future__ import annotations

import pytest

from tests.site.conftest import ROOT, Playbooks, Site, wait_for

DEPLOY = ("site.yml", "--skip-tags", "verify")  # molecule's converge has run the smoke test
LEFT = {"service": "services", "secret": "secrets", "config": "configs", "network": "networks"}


@pytest.fixture(scope="module")
def plays() -> Playbooks:
    return Playbooks(ROOT / "molecule/inventory")


def test_a_second_run_changes_nothing_and_says_so_in_advance(plays: Playbooks) -> None:
    assert plays.play(*DEPLOY, "--check").changed() == set()
    assert plays.play(*DEPLOY).changed() == set()


def test_the_site_is_removed_and_comes_back_with_its_users_files_and_log_ins(site: Site, plays: Playbooks) -> None:
    server = site.launch()
    assert site.outcome(server), site.hub_log(server.began)
    assert site.run(server, "echo kept > /workspace/jdoe/kept")[0] == 0

    plays.play("playbooks/remove.yml")
    deployed = {"label": "org.xnat.jupyterhub.deployment=jupyterhub"}
    for kind, listing in LEFT.items():
        names = getattr(site.docker, listing)(filters=deployed)
        assert not names, f"{kind}: {names}"
    wait_for("end of the notebook's container", lambda: not site.docker.containers(filters=deployed))
    assert plays.play("playbooks/remove.yml").changed() == set()

    plays.play(*DEPLOY, "-e", "xnat_jupyterhub_purge=false")  # this launch's environment is the tests' own
    again = site.launch()
    assert site.outcome(again), site.hub_log(again.began)
    assert site.run(again, "cat /workspace/jdoe/kept") == (0, "kept\n")
    site.stop(again)
