"""The files of docs/reverse-proxy.md in front of a real hub, each in a container that has the network of the node.

tests/unit/test_reverse_proxy.py tests more of them, with the programs that the machine has.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import requests

from tests.edge_bed import certificate
from tests.reverse_proxies import PROXIES, Proxy
from tests.site.conftest import BASE_URL, TIMEOUT, Site, wait_for

HOST = "jupyter.example.org"
IMAGE = "xnatjh-proxies"
NAME = "xnatjh-test-proxy"
FOLDER, HTTP, HTTPS = "/proxy", 18081, 18443
DOCKERFILE = """\
FROM {node}
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
    apache2-bin haproxy nginx-light && rm -rf /var/lib/apt/lists/*
"""

pytestmark = pytest.mark.filterwarnings("ignore:Unverified HTTPS request")


@pytest.fixture(scope="module")
def image(site: Site) -> str:
    """An image with the three programs, of the node's own; later runs find its layers."""
    node = site.outer.inspect_container(site.container)["Image"]
    text = DOCKERFILE.format(node=node).encode()
    said = [*site.outer.build(fileobj=io.BytesIO(text), tag=IMAGE, rm=True, decode=True)]
    assert not [line for line in said if "error" in line], said[-3:]
    return IMAGE


def packed(folder: Path) -> bytes:
    """Return the files of a folder as Docker takes them, in a directory that everybody may write to."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        directory = tarfile.TarInfo(FOLDER.lstrip("/"))
        directory.type, directory.mode = tarfile.DIRTYPE, 0o777
        tar.addfile(directory)
        for path in folder.iterdir():
            tar.add(path, f"{FOLDER}/{path.name}".lstrip("/"))
    return archive.getvalue()


@pytest.mark.parametrize("proxy", PROXIES, ids=[proxy.name for proxy in PROXIES])
def test_a_documented_reverse_proxy_serves_a_real_hub(site: Site, image: str, tmp_path: Path, proxy: Proxy) -> None:
    (tmp_path / "site.pem").write_text(certificate("site"))
    proxy.write(tmp_path, "127.0.0.1:8000", HTTP, HTTPS, inside=FOLDER)
    site.outer.create_container(
        image,
        proxy.command(f"{FOLDER}/main.conf"),
        name=NAME,
        user="65534:65534",
        host_config=site.outer.create_host_config(network_mode=f"container:{site.container}", cap_drop=["ALL"]),
    )
    try:
        site.outer.put_archive(NAME, "/", packed(tmp_path))
        site.outer.start(NAME)
        browser = requests.Session()
        browser.trust_env, browser.verify = False, False
        browser.headers.update({"Host": HOST, "Sec-Fetch-Mode": "navigate"})
        hub = f"https://{site.address}:{HTTPS}{BASE_URL}hub/"

        def listens() -> bool:
            try:
                return browser.get(f"{hub}api/", timeout=TIMEOUT).status_code == 200
            except requests.ConnectionError:
                assert site.outer.inspect_container(NAME)["State"]["Running"], site.outer.logs(NAME).decode()
                return False

        wait_for(proxy.name, listens)
        assert browser.get(f"{hub}login?token=s3cret", timeout=TIMEOUT).status_code == 200
        data = {"username": "jdoe", "password": site.password, "_xsrf": browser.cookies["_xsrf"]}
        login = browser.post(f"{hub}login", data=data, timeout=TIMEOUT, allow_redirects=False)
        assert login.status_code == 302
        assert login.headers["Strict-Transport-Security"] == "max-age=31536000"
        assert "jdoe" in browser.get(f"{hub}home", timeout=TIMEOUT).text
        files, _ = site.outer.get_archive(NAME, FOLDER)
        written = b"".join(files) + site.outer.logs(NAME)
        assert b"/jupyterhub/hub/login" in written
        assert b"s3cret" not in written
    finally:
        site.outer.remove_container(NAME, force=True)
