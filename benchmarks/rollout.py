"""Rollouts by number of nodes: first rollout, no-change rerun, launches from XNAT, hub upgrade and join.

`make bench-rollout` runs this as root; see benchmarks/README.md. The nodes are those of molecule: containers with
systemd and a Docker Engine of their own, with files over ssh from the first one. Images are built once, before anything
is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
SIZES = (1, 3, 6, 10)
SITE = ("site.yml", "--skip-tags", "verify")
IGNORED = (".git", ".venv", ".cache", ".secrets", "__pycache__", ".mypy_cache", ".ruff_cache", ".ansible")


@dataclass
class Run:
    """One run of a playbook. tasks: executed on the last node; megabytes: pulled by the node that pulled most.

    launches: seconds from XNAT's request until each notebook of the smoke test is ready.
    """

    seconds: float
    tasks: int = 0
    megabytes: float = 0
    launches: tuple[float, ...] = ()


class Bench:
    """A copy of the project, because the benchmark changes the hub's code, and an inventory of its own."""

    def __init__(self, directory: Path, images: Path | None, reruns: int) -> None:
        self.reruns = reruns
        self.project = directory / "project"
        shutil.copytree(ROOT, self.project, ignore=shutil.ignore_patterns(*IGNORED))
        self.inventory = self.project / "molecule/swarm/inventory"
        (self.inventory / "group_vars/all/zzz_bench.yml").write_text("hub_images_dashboards: false\n")
        self.images = images or directory / "images.tar"
        self.edits = 0

    def nodes(self, count: int) -> list[str]:
        """Return the names of `count` nodes; the first is a manager, the file server and the host of the demo XNAT."""
        return [f"node{number}" for number in range(1, count + 1)]

    def managers(self, count: int) -> list[str]:
        """Return the managers of `count` nodes: three if there are that many, because each keeps the hub's image."""
        return self.nodes(count)[: 3 if count >= 3 else 1]

    def write(self, count: int) -> None:
        """Write the inventory."""
        hosts = {name: {"ansible_host": f"xnatjh-{name}"} for name in self.nodes(count)}
        managers = {name: hosts.pop(name) for name in self.managers(count)}
        groups = {"managers": {"hosts": managers}, "workers": {"hosts": hosts}}
        variables = {"ansible_connection": "community.docker.docker", "ansible_user": "root"}
        children = {"swarm": {"children": groups}, "demo_xnat": {"hosts": {"node1": None}}}
        text = yaml.safe_dump({"all": {"vars": variables, "children": children}})
        (self.inventory / "hosts.yml").write_text(text)

    def play(self, *words: str) -> Run:
        """Run a playbook; exits if it fails."""
        bin_dir = Path(sys.executable).parent
        environment = {
            **os.environ,
            "PATH": f"{bin_dir}:/usr/bin:{os.environ['PATH']}",
            "ANSIBLE_CONFIG": str(self.project / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        }
        command = [str(bin_dir / "ansible-playbook"), "-i", str(self.inventory), *words]
        began = time.monotonic()
        done = subprocess.run(command, cwd=self.project, env=environment, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
        if done.returncode:
            sys.exit(f"{' '.join(words)} failed:\n{done.stdout[-4000:]}{done.stderr[-1000:]}")
        tasks = {host: int(count) for host, count in re.findall(r"^(node\d+)\s+: ok=(\d+)", done.stdout, re.MULTILINE)}
        moved = [float(text) for text in re.findall(r"Pulled ([\d.]+) MB", done.stdout)]
        last = max(tasks, key=lambda host: int(host.removeprefix("node")), default="")
        launches = tuple(float(text) for text in re.findall(r"ready after ([\d.]+) s", done.stdout))
        return Run(seconds, tasks.get(last, 0), max(moved, default=0), launches)

    def make_nodes(self, count: int) -> None:
        """Create fresh nodes."""
        self.write(count)
        self.play("molecule/default/destroy.yml")
        wanted = {"testbed_nodes": dict.fromkeys(self.nodes(count), "trixie"), "testbed_offline_nodes": []}
        self.play("molecule/default/create.yml", "-e", json.dumps(wanted))
        self.play("molecule/swarm/prepare.yml")

    def docker(self, script: str, **options: Any) -> None:
        """Run docker on the first node."""
        command = ["/usr/bin/docker", "exec", "-i", "xnatjh-node1", "sh", "-c", script]
        subprocess.run(command, check=True, **options)

    def build(self) -> None:
        """Build the images once, including the registry's, and save them."""
        self.make_nodes(1)
        self.play(*SITE)
        self.play("playbooks/images.yml", "-e", "hub_images_registry=true")
        with self.images.open("wb") as file:
            self.docker("docker save $(docker images --format '{{.Repository}}:{{.Tag}}' localhost/*/*)", stdout=file)

    def change_hub(self) -> None:
        """Change one line of the hub's Python code."""
        self.edits += 1
        with (self.project / "files/xnat_hub/spawner.py").open("a") as file:
            file.write(f"# Change {self.edits} of a benchmark.\n")

    def measure(self, count: int) -> dict[str, list[Run]]:
        """Measure `count` nodes, and then the join of one more. The first node gets the images beforehand."""
        more = count + 1
        self.make_nodes(more)
        self.write(1)
        self.play("playbooks/nodes.yml")
        with self.images.open("rb") as file:
            self.docker("docker load", stdin=file, stdout=subprocess.DEVNULL)
        self.write(count)
        found: dict[str, list[Run]] = {}

        def timed(what: str) -> None:
            run = self.play(*SITE)
            found.setdefault(what, []).append(run)
            print(f"{count} nodes, {what}: {run.seconds:.1f} s, {run.tasks} tasks, {run.megabytes} MB", flush=True)

        timed("first rollout")
        for _ in range(self.reruns):
            timed("no-change rerun")
        for _ in range(self.reruns):
            launches = self.play("playbooks/verify.yml").launches
            found.setdefault("launch", []).extend(Run(seconds) for seconds in launches)
            print(f"{count} nodes, launches: {', '.join(f'{seconds:.1f} s' for seconds in launches)}", flush=True)
        self.change_hub()
        timed("hub upgrade")
        self.write(more)
        timed("join of one more")
        return found


def table(rows: dict[int, dict[str, list[Run]]]) -> str:
    """Return the medians as text: seconds, tasks on the last node, MB pulled by the node that pulled most."""
    names = list(next(iter(rows.values())))
    lines = ["nodes  " + "  ".join(f"{name:>24}" for name in names)]
    for count, found in rows.items():
        cells = []
        for name in names:
            seconds = statistics.median(run.seconds for run in found[name])
            cells.append(f"{seconds:8.1f} s {found[name][0].tasks:3d} t {found[name][0].megabytes:6.1f} MB")
        lines.append(f"{count:5d}  " + "  ".join(f"{cell:>24}" for cell in cells))
    if 1 in rows and max(rows) > 1:
        medians = {
            name: [statistics.median(run.seconds for run in rows[n][name]) for n in (1, max(rows))]
            for name in ("no-change rerun", "launch")
        }
        one, most = medians["no-change rerun"]
        lines.append(f"no-change rerun, {max(rows)} nodes : 1 node = {most / one:.2f} (target: at most 2)")
        one, most = medians["launch"]
        lines.append(f"launch, {max(rows)} nodes - 1 node = {most - one:.1f} s (target: at most 1 s)")
    return "\n".join(lines)


def main() -> None:
    """Measure and print; nodes are removed at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, help="numbers of nodes")
    parser.add_argument(
        "--images", type=Path, help="an archive of the images, written by `docker save`, instead of building them"
    )
    parser.add_argument("--reruns", type=int, default=3, help="repetitions of the run with nothing to do")
    wanted = parser.parse_args()
    rows: dict[int, dict[str, list[Run]]] = {}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), wanted.images, wanted.reruns)
        try:
            if not wanted.images:
                print("Building the images ...", flush=True)
                bench.build()
            for count in wanted.sizes:
                print(f"{count} nodes ...", flush=True)
                rows[count] = bench.measure(count)
                print(table(rows), flush=True)
        finally:
            bench.play("molecule/default/destroy.yml")
    RESULTS.mkdir(exist_ok=True)
    kept = {count: {name: [vars(run) for run in runs] for name, runs in found.items()} for count, found in rows.items()}
    path = RESULTS / time.strftime("rollout-%Y%m%dT%H%M%SZ.json", time.gmtime())
    path.write_text(json.dumps({"cpus": os.cpu_count(), "nodes": kept}, indent=1) + "\n")


if __name__ == "__main__":
    main()
