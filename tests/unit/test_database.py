"""The hub's database before the hub starts."""

from __future__ import annotations

from pathlib import Path

from jupyterhub import orm
from xnat_hub.database import forget_service_tokens


def test_old_tokens_of_services_are_forgotten_and_those_of_people_stay(tmp_path: Path) -> None:
    path = tmp_path / "jupyterhub.sqlite"
    forget_service_tokens(path)
    assert not path.exists()
    url = f"sqlite:///{path}"
    db = orm.new_session_factory(url)()
    service, user = orm.Service(name="xnat"), orm.User(name="jdoe")
    db.add_all([service, user])
    db.commit()
    db.add_all([orm.APIToken(prefix="a", hashed="a", service=service), orm.APIToken(prefix="b", hashed="b", user=user)])
    db.commit()
    db.close()
    forget_service_tokens(path)
    db = orm.new_session_factory(url)()
    assert [token.user.name for token in db.query(orm.APIToken)] == ["jdoe"]
    db.close()


def test_a_database_without_tables_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "empty.sqlite"
    path.touch()
    forget_service_tokens(path)
    assert path.read_bytes() == b""
