"""The people of the demo XNAT, in one table. Names are compared exactly: ``jdoe`` and ``JDoe`` are two people."""

from __future__ import annotations

from dataclasses import dataclass

ADMINISTRATOR = "Administrator"
JUPYTER = "Jupyter"
JUPYTERHUB = "JupyterHub"
SERVICE_ACCOUNT = "jupyterhub"


@dataclass(frozen=True)
class Person:
    """One account; ``roles`` are role keys, ``projects`` the projects readable at start."""

    user_id: int
    username: str
    roles: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    enabled: bool = True
    password_expired: bool = False

    def is_administrator(self) -> bool:
        """Whether the person may see and do everything."""
        return ADMINISTRATOR in self.roles

    def may_act_for(self, username: str) -> bool:
        """XNAT's access level "User": the exact own name, or a site admin (docs/xnat-contract.md, 1.1)."""
        return self.username == username or self.is_administrator()

    def is_plugin_manager(self) -> bool:
        """Whether the person has one of the roles that may read user-options (docs/xnat-contract.md, 1.1)."""
        return self.is_administrator() or JUPYTERHUB in self.roles


PEOPLE = {
    person.username: person
    for person in (
        Person(1, "admin", roles=(ADMINISTRATOR,)),
        Person(2, SERVICE_ACCOUNT, roles=(JUPYTERHUB, "non_expiring")),
        Person(11, "jdoe", roles=(JUPYTER,), projects=("DEMO_MR", "DEMO_CT")),
        Person(12, "JDoe", roles=(JUPYTER,), projects=("DEMO_CT",)),
        Person(13, "asmith", projects=("DEMO_MR",)),
        Person(14, "rjones", roles=(JUPYTER,)),
        Person(15, "expired", roles=(JUPYTER,), projects=("DEMO_MR",), password_expired=True),
        Person(16, "disabled", roles=(JUPYTER,), projects=("DEMO_MR",), enabled=False),
    )
}
