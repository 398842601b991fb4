#!/usr/bin/python
"""Starts single-user images as the hub does, and reports why one cannot serve."""

from __future__ import annotations

DOCUMENTATION = r"""
module: singleuser_probe
short_description: Test whether images can serve as notebook servers of this site
description:
  - Starts the command C(jupyterhub-singleuser) of each image in a container without a network, in the same way as the
    launcher - as XNAT's user instead of the image's, without capabilities or new privileges, with a read-only root, an
    empty home and /tmp (O(read_only)), and with a directory of that user as workspace. A stand-in for the hub's API
    answers inside the container.
  - Fails with one sentence for each image whose server does not answer or has another version of JupyterHub, or that
    declares volumes although O(read_only) - Docker creates a directory on the node's disk for each, without a limit.
    Removes its containers.
options:
  images:
    description: The images.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Its name on the nodes., type: str, default: ""}
      source: {description: "Its name in the inventory, used in messages.", type: str, required: true}
      id: {description: The image's id., type: str, required: true}
  uid: {description: User id that servers run as., type: int, required: true}
  gid: {description: Group id that servers run as., type: int, required: true}
  groups: {description: Additional group ids of servers., type: list, elements: int, default: []}
  read_only: {description: Whether the root of servers is read-only., type: bool, default: true}
  home: {description: "Their home then, an empty directory.", type: path, default: /home/jovyan}
  jupyterhub_version: {description: The hub's version of JupyterHub., type: str, required: true}
  timeout: {description: Seconds in which a server must answer., type: int, default: 120}
requirements: [docker Python package]
attributes:
  check_mode: {support: full, description: Makes no permanent changes.}
"""
EXAMPLES = r"""
- name: Test the image
  singleuser_probe:
    images: [{source: "quay.io/jupyter/scipy-notebook:2026-01-05", id: "sha256:2ae0a07e75e7..."}]
    uid: 1500
    gid: 1500
    groups: [100]
    jupyterhub_version: 5.5.4
"""
RETURN = r"""
findings:
  description:
    - Of each image that cannot serve C(image), C(kind) (volume, start, missing, version, read_only, user), C(text).
  type: list
  elements: dict
  returned: failure
"""

import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import docker

    HAS_DOCKER = True
except ImportError:
    HAS_DOCKER = False

PREFIX = "/jupyterhub/user/probe/"
WORKSPACE = "/workspace/probe"
PORT = 8888
SCRATCH = "size=512m,mode=1777,nosuid,nodev"  # of /tmp and home
GRACE = 60  # seconds in addition to the server's own
# The variables that the hub sets for jupyterhub-singleuser (JupyterHub's Spawner.get_env) and XNAT's (contract, 4.1).
ENVIRONMENT = {
    "JUPYTERHUB_API_TOKEN": "probe",
    "JUPYTERHUB_API_URL": "http://127.0.0.1:8081/hub/api",
    "JUPYTERHUB_ACTIVITY_URL": "http://127.0.0.1:8081/hub/api/users/probe/activity",
    "JUPYTERHUB_BASE_URL": "/jupyterhub/",
    "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-probe",
    "JUPYTERHUB_HOST": "",
    "JUPYTERHUB_OAUTH_ACCESS_SCOPES": '["access:servers!user=probe"]',
    "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{PREFIX}oauth_callback",
    "JUPYTERHUB_OAUTH_SCOPES": '["access:servers!user=probe"]',
    "JUPYTERHUB_SERVER_NAME": "",
    "JUPYTERHUB_SERVICE_PREFIX": PREFIX,
    "JUPYTERHUB_SERVICE_URL": f"http://0.0.0.0:{PORT}{PREFIX}",
    "JUPYTERHUB_USER": "probe",
    "JUPYTERHUB_ROOT_DIR": WORKSPACE,
    "XDG_CONFIG_HOME": WORKSPACE,
}
# Run by the image's own Python 3: starts the hub's stand-in and the server, and prints the result as JSON.
SCRIPT = f'''
import json, os, re, subprocess, sys, threading, time, urllib.error, urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

version, limit = sys.argv[1], float(sys.argv[2])

class Hub(BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps({{"version": version}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-JupyterHub-Version", version)
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = answer
    def log_message(self, *arguments):
        pass

home = os.path.expanduser("~")
try:
    owner = "%d:%d" % (os.stat(home).st_uid, os.stat(home).st_gid)
except OSError:
    owner = ""
seen = {{"home": home, "owner": owner, "writable": os.access(home, os.W_OK | os.X_OK), "served": False, "code": None}}
try:
    import jupyterhub
    seen["version"] = jupyterhub.__version__
except Exception:
    seen["version"] = ""
hub = HTTPServer(("127.0.0.1", 8081), Hub)
threading.Thread(target=hub.serve_forever, daemon=True).start()
log = open("{WORKSPACE}/log", "w+b")
command = ["/bin/sh", "-c", 'exec "$@"', "server", "jupyterhub-singleuser"]
server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
end = time.monotonic() + limit
while not seen["served"] and time.monotonic() < end:
    try:
        answer = urllib.request.urlopen("http://127.0.0.1:{PORT}{PREFIX}api", timeout=5)
    except urllib.error.HTTPError as error:
        answer = error
    except (OSError, ValueError):
        seen["code"] = server.poll()
        if seen["code"] is not None:
            break
        time.sleep(0.1)
        continue
    seen["served"] = True
    seen["version"] = answer.headers.get("X-JupyterHub-Version") or seen["version"]
server.kill()
log.seek(0)
lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
seen["said"] = lines[-1][:500] if lines else ""
refused = [line for line in lines if "Read-only file system" in line or "EROFS" in line]
paths = [found[0] for line in refused if (found := re.search("/[\\w./+@-]+", line))]
seen["unwritable"] = list(dict.fromkeys(paths))[:5]
print(json.dumps(seen))
'''


def container(image: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of Docker's create call, without those of its host."""
    home = {"HOME": wanted["home"]} if wanted["read_only"] else {}
    return {
        "image": image,
        "entrypoint": ["python3", "-c", SCRIPT],
        "command": [wanted["jupyterhub_version"], str(wanted["timeout"])],
        "user": f"{wanted['uid']}:{wanted['gid']}",
        "environment": ENVIRONMENT | home,
    }


def host(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of its host: the restrictions of the launcher's servers (files/xnat_launcher/service.py)."""
    # Volumes as the launcher's: a tmpfs of the container itself would get the mode that the image's directory has.
    driver = {"Name": "local", "Options": {"type": "tmpfs", "device": "tmpfs", "o": SCRATCH}}
    options = {"NoCopy": True, "DriverConfig": driver}
    targets = ("/tmp", wanted["home"]) if wanted["read_only"] else ()  # noqa: S108
    return {
        "network_mode": "none",
        "init": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "group_add": [str(group) for group in wanted["groups"]],
        "read_only": wanted["read_only"],
        "mounts": [{"Type": "volume", "Target": target, "VolumeOptions": options} for target in targets],
        "tmpfs": {WORKSPACE: f"uid={wanted['uid']},gid={wanted['gid']},mode=0700"},
    }


def finding(name: str, seen: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, str] | None:
    """Return why an image cannot serve, None if it can. seen: the script's result, or `error` if it did not run."""
    version = wanted["jupyterhub_version"]
    needs = f"the hub needs JupyterHub {version} (hub_images_jupyterhub_version): use an image with that version"
    if "error" in seen:
        kind, text = "start", f"The image {name} cannot be tested: {seen['error']}. It must have python3 and /bin/sh"
    elif not seen["version"]:
        kind, text = "missing", f"The image {name} has no JupyterHub that python3 can import, but {needs}"
    elif seen["version"] != version:
        kind, text = "version", f"The image {name} has JupyterHub {seen['version']}, but {needs}"
    elif not seen["served"] and wanted["read_only"]:
        ends = "does not answer" if seen["code"] is None else f"ends with exit code {seen['code']}"
        paths = f" It could not write {', '.join(seen['unwritable'])}." if seen["unwritable"] else ""
        kind, text = (
            "read_only",
            f"The image {name} cannot run as XNAT's user {wanted['uid']}:{wanted['gid']} (site_uid, site_gid) on a"
            f" read-only root: jupyterhub-singleuser {ends}, its last log line is {seen['said']!r}.{paths} Only its"
            f" workspace, /tmp and its home {wanted['home']}, which is empty at the start, are writable. Use an image"
            " that needs no others, set jupyterhub_notebook_home to another directory if the image needs files that it"
            " has there, or set jupyterhub_notebook_read_only to false",
        )
    elif not seen["served"]:
        ends = "does not answer" if seen["code"] is None else f"ends with exit code {seen['code']}"
        groups = f"with the groups {wanted['groups']}" if wanted["groups"] else "without additional groups"
        whose = f"belongs to {seen['owner']}" if seen["owner"] else "does not exist"
        writable = "writable" if seen["writable"] else "not writable"
        kind, text = (
            "user",
            f"The image {name} cannot run as XNAT's user {wanted['uid']}:{wanted['gid']} (site_uid, site_gid):"
            f" jupyterhub-singleuser {ends}, its last log line is {seen['said']!r}. Its home {seen['home']} {whose} and"
            f" is {writable} {groups}: add a group that may write there to"
            " jupyterhub_notebook_groups, or use an image that is built for this user",
        )
    else:
        return None
    return {"image": name, "kind": kind, "text": text}


def volume_finding(name: str, volumes: Iterable[str], wanted: Mapping[str, Any]) -> dict[str, str] | None:
    """Return why the volumes that an image declares keep it from being used, None if they do not.

    Not those on the directories in memory that each server has: these take their place.
    """
    paths = sorted({posixpath.normpath(path) for path in volumes} - {"/tmp", "/dev/shm", wanted["home"]})  # noqa: S108
    if not paths or not wanted["read_only"]:
        return None
    return {
        "image": name,
        "kind": "volume",
        "text": (
            f"The image {name} declares volumes (VOLUME in its Dockerfile) at {', '.join(paths)}: servers could fill"
            " the disk of their node there. Use an image that declares none, or set jupyterhub_notebook_read_only to"
            " false, which allows servers to write to that disk anyway"
        ),
    }


def probe(client: Any, image: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Run the script in a container of the image. Returns its result, or {"error": message of the engine or Python}."""
    made = client.create_container(**container(image, wanted), host_config=client.create_host_config(**host(wanted)))
    try:
        try:
            client.start(made["Id"])
        except docker.errors.APIError as error:
            return {"error": str(error.explanation or error)}
        client.wait(made["Id"], timeout=wanted["timeout"] + GRACE)
        said = client.logs(made["Id"], stdout=True, stderr=False).decode(errors="replace")
        try:
            found: dict[str, Any] = json.loads(said.strip().rpartition("\n")[2])
        except ValueError:
            heard = client.logs(made["Id"], stdout=True, stderr=True).decode(errors="replace").strip()
            return {"error": heard.rpartition("\n")[2] or "python3 printed nothing"}
        return found
    finally:
        client.remove_container(made["Id"], force=True, v=True)


def run(client: Any, wanted: Mapping[str, Any]) -> Sequence[dict[str, str]]:
    """Return the findings of all images."""
    found = []
    for image in wanted["images"]:
        name, volumes = image["source"], client.inspect_image(image["id"])["Config"].get("Volumes") or ()
        found.append(volume_finding(name, volumes, wanted) or finding(name, probe(client, image["id"], wanted), wanted))
    return [one for one in found if one]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "images": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "default": ""},
                    "source": {"type": "str", "required": True},
                    "id": {"type": "str", "required": True},
                },
            },
            "uid": {"type": "int", "required": True},
            "gid": {"type": "int", "required": True},
            "groups": {"type": "list", "elements": "int", "default": []},
            "read_only": {"type": "bool", "default": True},
            "home": {"type": "path", "default": "/home/jovyan"},
            "jupyterhub_version": {"type": "str", "required": True},
            "timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    if not HAS_DOCKER:
        module.fail_json(msg=missing_required_lib("docker"))
    client = docker.APIClient(version="auto", timeout=module.params["timeout"] + GRACE)
    try:
        findings = run(client, module.params)
    except (docker.errors.DockerException, OSError) as error:
        module.fail_json(msg=f"Docker request failed: {error}")
    if findings:
        module.fail_json(msg="\n".join(f"{one['text']}." for one in findings), findings=findings)
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
