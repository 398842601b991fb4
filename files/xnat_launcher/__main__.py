"""Run the launcher: `python -m xnat_launcher`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from aiohttp import web
from xnat_wire.launcher import SOCKET
from xnat_wire.rest import Rest
from xnat_wire.settings import SECRETS_DIR, SettingsError, read_secret
from xnat_wire.throttle import Throttle

from xnat_launcher.audit import DIRECTORY, Archive, Audit
from xnat_launcher.docker import Docker, SwarmError
from xnat_launcher.launches import Launcher
from xnat_launcher.options import OptionsError
from xnat_launcher.policy import MountError
from xnat_launcher.server import make_app
from xnat_launcher.settings import SETTINGS_FILE, Settings, load
from xnat_launcher.swarm import Swarm
from xnat_launcher.syslog import Syslog
from xnat_launcher.xnat import ServiceAccount

log = logging.getLogger("xnat_launcher")

TIDY_INTERVAL = 60.0  # seconds between two searches for orphaned secrets
BEAT = 2.0  # seconds between two heartbeats, which the health check reads
GRACE = 5.0  # seconds for pending calls to finish at shutdown
BACKLOG = 1024  # connections that wait to be accepted, more than the hub opens at once
MAX_HEADER = 1024  # bytes of a line of a request's head


async def serve(settings: Settings, password: str, path: Path, docker: Docker) -> None:
    """Serve the hub on a unix socket until SIGTERM or SIGINT; then end XNAT's session and close all connections."""
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    throttle = Throttle(settings.failed_logins, settings.failed_logins_window)
    xnat = ServiceAccount(Rest(settings.xnat), settings.xnat_username, password, throttle)
    syslog = Syslog(settings.audit_syslog, settings.xnat.ca_file) if settings.audit_syslog else None
    archive = Archive(Path(DIRECTORY), settings.audit_days)
    audit = Audit(settings.deployment, archive, settings.audit_failure == "refuse", syslog, key=_key(archive))
    launcher = Launcher(settings, xnat, Swarm(docker, settings.deployment, settings.network), audit)
    app = make_app(launcher, settings.hub_uid)
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=GRACE, max_line_size=MAX_HEADER, max_field_size=MAX_HEADER
    )
    try:
        await runner.setup()
        _remove(path)
        await web.UnixSite(runner, path, backlog=BACKLOG).start()
        _give(path, settings.hub_uid)
        log.info("Serving the hub at %s", path)
        rounds = [_tidy(launcher), _beat(path.with_name("alive")), launcher.watch()]
        tasks = [asyncio.create_task(each) for each in (*rounds, *([syslog.run()] if syslog else []))]
        await end.wait()
        await runner.cleanup()
        if syslog:
            await syslog.flush()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    finally:
        await runner.cleanup()
        await audit.close()
        await xnat.close()
        await docker.close()


def _key(archive: Archive) -> bytes:
    try:
        return archive.key()
    except OSError as error:
        log.error("The audit log cannot keep the key of its hashes (%s): hashes differ after the next start", error)
        return b""


async def _tidy(launcher: Launcher) -> None:
    while True:
        try:
            await launcher.tidy()
        except SwarmError as error:
            log.warning("Clean-up incomplete: %s", error)
        except Exception:  # for example an unexpected answer from Docker: the next round may succeed
            log.exception("Clean-up failed")
        await asyncio.sleep(TIDY_INTERVAL)


async def _beat(file: Path) -> None:
    while True:
        _touch(file)
        await asyncio.sleep(BEAT)


def _remove(socket: Path) -> None:
    socket.unlink(missing_ok=True)


def _give(socket: Path, group: int) -> None:
    # Only the hub may connect: its group is one of this process's groups.
    os.chown(socket, -1, group)
    socket.chmod(0o660)


def _touch(file: Path) -> None:
    file.touch()


def main() -> None:
    """Run until stopped; exit with a message if the settings are invalid."""
    logging.basicConfig(level=logging.INFO, format="[%(levelname).1s %(asctime)s %(name)s] %(message)s")
    try:
        settings = load(Path(SETTINGS_FILE))
        password = read_secret(Path(SECRETS_DIR), "xnat_password")
    except (SettingsError, MountError, OptionsError) as error:
        sys.exit(f"The launcher cannot start: {error}.")
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(settings, password, Path(SOCKET), Docker()))


if __name__ == "__main__":
    main()
