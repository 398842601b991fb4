"""The project's hub on the stub of Docker's API: its own configuration, but one address for all servers."""

import os

from xnat_hub.spawner import XnatSpawner

c = get_config()  # type: ignore[name-defined]  # noqa: F821
load_subconfig("/opt/xnat-hub/jupyterhub_config.py")  # type: ignore[name-defined]  # noqa: F821


class StubSpawner(XnatSpawner):
    """For the stub of Docker's API, which has one server for all."""

    async def start(self) -> tuple[str, int]:
        """Start as always; the stub's one server listens elsewhere."""
        await super().start()
        return os.environ["BENCH_SERVER"], 8888

    async def _until_jupyter_answers(self, *_: object) -> None:
        """Do nothing: the hub itself checks the address that `start` returns."""


c.JupyterHub.spawner_class = StubSpawner
