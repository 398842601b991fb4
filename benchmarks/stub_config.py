"""The project's hub on the stub of Docker's API: its own configuration, but all servers are at one address."""

import os

from xnat_hub.spawner import XnatSpawner

c = get_config()  # type: ignore[name-defined]  # noqa: F821
load_subconfig("/opt/xnat-hub/jupyterhub_config.py")  # type: ignore[name-defined]  # noqa: F821


class StubSpawner(XnatSpawner):
    """For the stub of Docker's API: all servers are one."""

    async def start(self) -> tuple[str, int]:
        """Start as always; the stub's one server listens elsewhere."""
        await super().start()
        return os.environ["BENCH_SERVER"], 8888

    async def _until_jupyter_answers(self, *_: object) -> None:
        """The hub itself looks at the address that `start` returns."""


c.JupyterHub.spawner_class = StubSpawner
