"""Virtual machines with Debian's own kernels for `tests/vm`: their disks, their start and their end.

`python3 -m tests.vm.machines up` starts all machines and returns when they can be logged in to; `down` ends them. Both
can be repeated: `up` first ends what an interrupted run left. Everything lies in `.cache/vm`, where the packages of the
root file systems stay for the next run. Needs root, and what `tests/vm/prepare.yml` installs.

QEMU is given kernel and initial RAM disk, and mkfs.ext4 writes the disk: no installer and no loop device is needed. The
first card of a machine leads outside and carries ssh; the second one joins the machines to one network.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache/vm"
KEY = CACHE / "key"
KNOWN_HOSTS = CACHE / "known_hosts"
KEPT = CACHE / "results.json"
"""What the tests of `tests/vm` have seen on these machines."""
LAN = "192.168.77"
MULTICAST = "230.0.0.77:17777"
HUB_PORT, XNAT_PORT = 28000, 28080
"""Ports of this machine that lead to hub and XNAT on the manager."""
BOOT_SECONDS = 300
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PACKAGES = (
    "ca-certificates", "dbus", "iproute2", "kmod", "linux-image-cloud-amd64", "netbase", "nfs-common",
    "nfs-kernel-server", "openssh-server", "procps", "python3", "python3-apt", "sudo", "systemd", "systemd-sysv",
    "udev",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """A machine. number: the last part of its address, and of its port for ssh on this one. memory: MiB."""

    name: str
    suite: str
    number: int
    memory: int
    manager: bool = False

    @property
    def address(self) -> str:
        """The address at which the other machines reach it."""
        return f"{LAN}.{self.number}"

    @property
    def ssh_port(self) -> int:
        """The port of this machine that leads to its ssh."""
        return 22600 + self.number

    @property
    def disk(self) -> Path:
        """The file with its root file system."""
        return CACHE / f"{self.name}.img"

    @property
    def images(self) -> Path:
        """The archive of images that it sees as its second disk."""
        return CACHE / ("managers.tar" if self.manager else "workers.tar")

    @property
    def console(self) -> Path:
        """The file with everything that its kernel has printed."""
        return CACHE / f"{self.name}.console"

    @property
    def pid_file(self) -> Path:
        """The file with the number of QEMU's process."""
        return CACHE / f"{self.name}.pid"

    def ssh(self, *words: str) -> list[str]:
        """Return the command that logs in to it; words: options of ssh and a command."""
        options = ["-i", str(KEY), "-p", str(self.ssh_port), "-o", f"UserKnownHostsFile={KNOWN_HOSTS}",
                   "-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
                   "-o", "ConnectTimeout=20"]  # fmt: skip
        return ["ssh", *options, "root@127.0.0.1", *words]

    def run(self, command: str, seconds: float = 120) -> str:
        """Run a shell command there and return its output. Raises AssertionError if it fails."""
        done = subprocess.run(self.ssh(command), capture_output=True, text=True, timeout=seconds, check=False)
        assert done.returncode == 0, (
            f"{command!r} on {self.name} ended with {done.returncode}: {done.stdout}{done.stderr}"
        )
        return done.stdout


MACHINES = (
    Machine("vm1", "trixie", 11, 4000, manager=True),
    Machine("vm2", "trixie", 12, 2600),
    Machine("vm3", "bookworm", 13, 2600),
)


def packages(suite: str) -> Path:
    """Return an archive of a root file system, bootstrapped unless one with the same packages exists."""
    key = hashlib.sha256(" ".join((suite, *PACKAGES)).encode()).hexdigest()[:12]
    archive = CACHE / f"{suite}-{key}.tar"
    if not archive.exists():
        part = archive.with_suffix(".part")
        command = [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            "--format=tar",
            suite,
        ]
        with part.open("wb") as file:
            subprocess.run(command, stdout=file, check=True)
        part.rename(archive)
    return archive


def write_disk(machine: Machine) -> None:
    """Write the disk of a machine, and its kernel and initial RAM disk beside it."""
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        root = Path(directory) / "root"
        root.mkdir(mode=0o755)
        subprocess.run(["tar", "--extract", "--file", packages(machine.suite), "--directory", root], check=True)
        for kind in ("vmlinuz", "initrd.img"):
            (found,) = (root / "boot").glob(f"{kind}-*")
            shutil.copyfile(found, CACHE / f"{machine.name}.{kind}")
        configure(machine, root)
        machine.disk.unlink(missing_ok=True)
        mkfs = ["mkfs.ext4", "-q", "-d", str(root), str(machine.disk), "20G"]
        subprocess.run(mkfs, stdout=subprocess.DEVNULL, check=True)


def configure(machine: Machine, root: Path) -> None:
    """Write the settings of a machine into its root file system."""
    (root / "etc/hostname").write_text(f"{machine.name}\n")
    hosts = [("127.0.0.1", "localhost"), *((one.address, one.name) for one in MACHINES)]
    (root / "etc/hosts").write_text("".join(f"{address} {name}\n" for address, name in hosts))
    (root / "etc/resolv.conf").write_text("nameserver 10.0.2.3\n")
    (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
    network = root / "etc/systemd/network"
    (network / "outside.network").write_text(f"[Match]\nMACAddress={mac(machine, 0)}\n[Network]\nDHCP=ipv4\n")
    (network / "lan.network").write_text(
        f"[Match]\nMACAddress={mac(machine, 1)}\n[Network]\nAddress={machine.address}/24\n"
    )
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "systemd-networkd.service").symlink_to("/lib/systemd/system/systemd-networkd.service")
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copyfile(KEY.with_suffix(".pub"), root / "root/.ssh/authorized_keys")
    if CERTIFICATES.exists():
        shutil.copyfile(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
    if machine.manager:  # which is the file server: the archive is read-only for the others, and root is nobody
        for name, access in (("archive", "ro"), ("workspaces", "rw")):
            directory = root / "srv/xnat-demo" / name
            directory.mkdir(parents=True)
            os.chown(directory, 1500, 1500)
            with (root / "etc/exports").open("a") as file:
                file.write(f"/srv/xnat-demo/{name} {LAN}.0/24({access},root_squash,no_subtree_check)\n")


def mac(machine: Machine, card: int) -> str:
    """Return the hardware address of a network card."""
    return f"52:54:00:77:{card:02x}:{machine.number:02x}"


def accelerator() -> str:
    """Return `kvm` if a guest really starts with it, otherwise `tcg`, which is software and slower.

    The probe starts a kernel without a disk. It prints its version, finds no root, and ends.
    """
    kernel = CACHE / f"{MACHINES[0].name}.vmlinuz"
    command = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", "512", "-nodefaults",
               "-display", "none", "-no-reboot", "-serial", "stdio",
               "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"]  # fmt: skip
    try:
        probe = subprocess.run(command, capture_output=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return "tcg"
    return "kvm" if b"Linux version" in probe.stdout and b"Kernel panic" in probe.stdout else "tcg"


def start(machine: Machine, accel: str) -> None:
    """Start a machine in the background."""
    forwards = [(machine.ssh_port, 22)] + ([(HUB_PORT, 8000), (XNAT_PORT, 8080)] if machine.manager else [])
    outside = ",".join(f"hostfwd=tcp:127.0.0.1:{ours}-:{theirs}" for ours, theirs in forwards)
    cpu = ["kvm", "-cpu", "host"] if accel == "kvm" else ["tcg,thread=multi,tb-size=256", "-cpu", "max"]
    subprocess.run(
        ["qemu-system-x86_64", "-name", f"xnatjh-{machine.name}", "-accel", *cpu,
         "-smp", "2", "-m", str(machine.memory), "-nodefaults", "-display", "none", "-daemonize",
         "-pidfile", str(machine.pid_file), "-serial", f"file:{machine.console}",
         "-kernel", str(CACHE / f"{machine.name}.vmlinuz"), "-initrd", str(CACHE / f"{machine.name}.initrd.img"),
         "-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0 panic=10",
         "-drive", f"file={machine.disk},if=virtio,format=raw,cache=unsafe",
         "-drive", f"file={machine.images},if=virtio,format=raw,readonly=on",
         "-netdev", f"user,id=outside,{outside}", "-device", f"virtio-net-pci,netdev=outside,mac={mac(machine, 0)}",
         "-netdev", f"socket,id=lan,mcast={MULTICAST},localaddr=127.0.0.1",
         "-device", f"virtio-net-pci,netdev=lan,mac={mac(machine, 1)}", "-device", "virtio-rng-pci"],
        check=True,
    )  # fmt: skip


def wait(machine: Machine) -> None:
    """Wait until a machine can be logged in to."""
    deadline = time.monotonic() + BOOT_SECONDS
    while subprocess.run(machine.ssh("true"), capture_output=True, check=False).returncode:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{machine.name} does not answer: {machine.console} is what its kernel has printed")
        time.sleep(1)


def up() -> None:
    """Start all machines."""
    down()
    if not KEY.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", KEY], check=True)
    for machine in MACHINES:
        write_disk(machine)
    accel = accelerator()
    (CACHE / "accelerator").write_text(accel)
    print(f"Starting {', '.join(machine.name for machine in MACHINES)} with {accel}", flush=True)
    for machine in MACHINES:
        start(machine, accel)
    for machine in MACHINES:
        wait(machine)


def down() -> None:
    """End all machines and remove their disks."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for machine in MACHINES:
        pid = machine.pid_file.read_text().strip() if machine.pid_file.exists() else ""
        command = Path(f"/proc/{pid}/cmdline")
        # After a restart of this machine the number may belong to something else.
        if pid and command.exists() and str(machine.disk) in command.read_text():
            os.kill(int(pid), signal.SIGKILL)
        machine.pid_file.unlink(missing_ok=True)
        machine.disk.unlink(missing_ok=True)
    KNOWN_HOSTS.unlink(missing_ok=True)
    KEPT.unlink(missing_ok=True)


if __name__ == "__main__":
    {"up": up, "down": down}[sys.argv[1]]()
