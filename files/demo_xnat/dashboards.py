"""The frameworks of dashboards and the commands made from their templates (docs/xnat-contract.md, 4.2)."""

from __future__ import annotations

import re

from .database import Database, Table
from .kinds import ComputeError, Framework, Json, is_empty

FRAMEWORKS = "jupyterhub/dashboards/frameworks"
TEMPLATE_LENGTH = 4096
_PLACEHOLDERS = {"{repo}": "gitRepoUrl", "{repobranch}": "gitRepoBranch", "{mainFilePath}": "mainFilePath"}
_REPOSITORY = "--repo {repo} --repobranch {repobranch} --repofolder /home/jovyan/dashboards"
_FILE = "/home/jovyan/dashboards/{mainFilePath}"
# {--}, {port}, {origin_host} and {base_url} are for jhsingle-native-proxy and stay.
BUILT_IN = {
    "Panel": f"jhsingle-native-proxy --port 8888 --destport 5006 {_REPOSITORY} bokeh-root-cmd {_FILE} "
    "{--}port={port} {--}allow-websocket-origin={origin_host} {--}prefix={base_url} {--}server=panel",
    "Streamlit": f"jhsingle-native-proxy --port 8888 --destport 8501 {_REPOSITORY} streamlit run {_FILE} "
    "{--}server.port {port} {--}server.headless True {--}server.fileWatcherType none",
    "Voila": f"jhsingle-native-proxy --port 8888 --destport 0 {_REPOSITORY} voila {_FILE} "
    "{--}port {port} {--}no-browser {--}Voila.base_url={base_url}/ {--}Voila.server_url=/ {--}Voila.ip=0.0.0.0 "
    "{--}Voila.tornado_settings allow_origin={origin_host} --progressive",
    "Dash": "jhsingle-native-proxy --port=8888 --destport=8050 --repo={repo} --repobranch={repobranch} "
    f"--repofolder=/home/jovyan/dashboards plotlydash-tornado-cmd {_FILE} "
    "{--}port={port} {--}ip 0.0.0.0",
}


class Frameworks:
    """The frameworks; ``dashboards`` are the rows that may use them."""

    def __init__(self, database: Database, dashboards: Table) -> None:
        self._table = Table(database, FRAMEWORKS)
        self._dashboards = dashboards

    def all(self) -> list[Json]:
        """All frameworks."""
        return list(self._table.rows.values())

    def get(self, name: str | None) -> Json | None:
        """The framework of that name."""
        return next((row for row in self.all() if row.get("name") == name), None)

    def create(self, framework: Framework) -> Json:
        """Store a new framework, whatever its id. Raises ``ComputeError`` as ``replace`` does."""
        return self._put(framework, None)

    def replace(self, framework: Framework) -> Json | None:
        """Replace the framework of the same *id*; None if there is none.

        Raises ``ComputeError`` if XNAT's database would refuse: an existing name, a template that is too long.
        """
        return self._put(framework, framework.id) if framework.id in self._table.rows else None

    def _put(self, framework: Framework, number: int | None) -> Json:
        same_name = self.get(framework.name)
        if len(framework.commandTemplate or "") > TEMPLATE_LENGTH or (same_name and same_name["id"] != number):
            raise ComputeError("could not execute statement")
        return self._table.put(framework.row(), number)

    def delete(self, name: str) -> None:
        """Remove a framework if it exists. Raises ``ComputeError`` if a dashboard uses it."""
        if any(row["dashboard"].get("framework") == name for row in self._dashboards.rows.values()):
            raise ComputeError("could not execute statement")
        if found := self.get(name):
            self._table.delete(found["id"])

    def command(self, dashboard: Json) -> str | None:
        """A dashboard's command, None if it is blank. Raises ``ComputeError`` if XNAT fails on it.

        XNAT puts the values in by Java's ``replaceAll``, which fails for null, for a ``$`` and for a backslash at the
        end. Here every ``$`` and backslash fails, also the few that Java takes for an escape.
        """
        framework = dashboard.get("framework")
        if is_custom(framework):
            command = dashboard.get("command")
        elif found := self.get(framework):
            command = found.get("commandTemplate")
        else:
            raise ComputeError(f"DashboardFramework {framework} does not exist")
        if command is None:
            raise ComputeError("null command")
        for placeholder, field in _PLACEHOLDERS.items():
            value = dashboard.get(field)
            if placeholder in command and (value is None or set(value) & {"$", "\\"}):
                raise ComputeError(f"{placeholder} cannot be replaced")
            command = command.replace(placeholder, value or "")
        command = re.sub(r"\s+", " ", command, flags=re.ASCII)
        return None if is_empty(command) else command


def is_custom(framework: str | None) -> bool:
    """Whether a dashboard with this framework has a command of its own."""
    return is_empty(framework) or (framework or "").lower() == "custom"
