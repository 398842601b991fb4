"""Run the demo XNAT: ``python -m demo_xnat SETTINGS.json``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from aiohttp import web

from . import archive
from .database import DatabaseError
from .settings import Secrets, Settings, SettingsError, load
from .web import make_app

LOG = logging.getLogger("demo_xnat")


def main(arguments: list[str]) -> int:
    """Exit code 2 for an invalid settings or secrets file, 1 if archive or database cannot be used, 0 after SIGTERM."""
    if len(arguments) != 1:
        print("Usage: python -m demo_xnat SETTINGS.json", file=sys.stderr)
        return 2
    try:
        settings = load(Path(arguments[0]), Settings)
        passwords = load(Path(settings.secrets_file), Secrets)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        written = archive.lay_out(Path(settings.archive_path))
        app = make_app(settings, passwords)
    except (archive.ArchiveError, DatabaseError) as error:
        print(error, file=sys.stderr)
        return 1
    LOG.info("Demo stand-in, not XNAT: port %s, %s archive file(s) written", settings.port, written)
    web.run_app(app, port=settings.port, print=None, access_log=None, shutdown_timeout=5)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
