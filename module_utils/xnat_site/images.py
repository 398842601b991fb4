"""Plans the content and the name of each image. The tag is a hash of the content, so equal input causes no change.

An image contains whole folders of `files/`: all of their files are in the build context and in the hash. Used on the
control node by the filters of `filter_plugins/images.py`; imports only the standard library.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from .hosts import DEMO_XNAT, EDGES

DEBIAN_SUITE = "trixie"
BASE_PACKAGES = ("ca-certificates", "python3", "python3-venv")
CACHE = "__pycache__"  # the only files in a folder that are not in the image
ON_MANAGERS = ("runtime", "assets", "hub", "launcher", "egress", "verify")  # in addition to the images of every node
SERVERS = "singleuser"
ON_NODES = ("guard", SERVERS)  # the images of every node
DIGITS = 12  # of a hash in a tag
OWN = "localhost/"  # engines do not look up such a name in a registry on the internet
# A reference as Docker accepts it: registry, path, and a tag or a digest.
REFERENCE = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*(?::[0-9]+(?=/))?(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})|@sha256:(?P<digest>[0-9a-f]{64}))?"
)


class ImageError(ValueError):
    """The images cannot be planned; the text is one sentence that says what to do."""


def image_plan(
    files_dir: str,
    *,
    prefix: str,
    base: str,
    revision: int,
    jupyterhub_version: str,
    hub_uid: int,
    notebook_uid: int,
    notebook_gid: int,
    dashboards: bool,
) -> dict[str, dict[str, Any]]:
    """Return the content of each image, in build order.

    The images are base, runtime, assets, hub, launcher, egress, edge, verify, guard, singleuser, registry and
    demo_xnat.

    The value of each::

        {"image": "prefix/hub:3f9c...",                # name and tag
         "dockerfile": "Dockerfile",                   # within the build context; empty for the base
         "files": [{"src": "/abs/file", "dest": "relative/in/context"}, ...],
         "args": {"BASE": "..."}}                      # build arguments, part of the hash

    files_dir: the project's `files/`. base: an image to build on, empty for a bootstrapped Debian. revision: any
    number; another one rebuilds everything with new Debian packages. Raises ImageError if a lock file does not pin the
    wanted JupyterHub or a package from its list of requirements.
    """
    files = Path(files_dir)
    lock = "dashboards.lock" if dashboards else "requirements.lock"
    lists = [files / "singleuser/jupyter.txt", files / "singleuser/requirements.txt"]
    check_lock(files / "runtime/requirements.txt", [files / "runtime/requirements.in"], jupyterhub_version)
    check_lock(
        files / "singleuser" / lock,
        [*lists, files / "singleuser/dashboards.txt"] if dashboards else lists,
        jupyterhub_version,
    )
    debian = {"SUITE": DEBIAN_SUITE, "PACKAGES": ",".join(BASE_PACKAGES), "REVISION": str(revision)}
    plan: dict[str, dict[str, Any]] = {
        "base": {
            "image": base or f"{prefix}/base:{content_tag(debian, [])}",
            "dockerfile": "",
            "files": [],
            "args": debian,
        }
    }

    def add(name: str, args: Mapping[str, Any], *beside: str) -> str:
        """Plan the image of the folder with this name and of the paths `beside` it. Returns the image's name."""
        pairs = [*build_context(files, name), *(pair for path in beside for pair in build_context(files, path, path))]
        arguments = {key: str(value) for key, value in args.items()}
        plan[name] = {
            "image": f"{prefix}/{name.replace('_', '-')}:{content_tag(arguments, pairs)}",
            "dockerfile": "Dockerfile",
            "files": [{"src": str(path), "dest": dest} for path, dest in pairs],
            "args": arguments,
        }
        return str(plan[name]["image"])

    on_base = {"BASE": plan["base"]["image"]}
    on_runtime = {"RUNTIME": add("runtime", {**on_base, "HUB_UID": hub_uid})}
    jupyterlab = locked_requirement(files / "singleuser" / lock, "jupyterlab")
    assets = add("assets", {**on_base, **on_runtime, "JUPYTERLAB": jupyterlab})
    add("hub", {"ASSETS": assets}, "jupyterhub_config.py", "templates", "xnat_hub", "xnat_wire")
    add("launcher", on_runtime, "xnat_launcher", "xnat_wire")
    add("egress", {**on_base, "HUB_UID": hub_uid})
    add("edge", {**on_base, "HUB_UID": hub_uid})
    add("verify", on_runtime, "xnat_verify", "xnat_wire")
    add("guard", on_base, "xnat_guard")
    singleuser = add("singleuser", {**on_base, "LOCK": lock, "NB_UID": notebook_uid, "NB_GID": notebook_gid})
    add("registry", {**on_base, "HUB_UID": hub_uid})
    add("demo_xnat", {"BASE": singleuser})
    return plan


def site_images(
    plan: Mapping[str, Mapping[str, Any]], *, registry: bool, demo_xnat: bool, edge: bool
) -> dict[str, str]:
    """Return the images of a plan that a site runs, in build order: {"hub": "prefix/hub:3f9c...", ...}.

    registry, demo_xnat, edge: whether the site runs these as well. The base image does not run.
    """
    extra = {"registry": registry, "demo_xnat": demo_xnat, "edge": edge}
    names = [*ON_MANAGERS, *ON_NODES, *(name for name, runs in extra.items() if runs)]
    return {name: str(plan[name]["image"]) for name in names}


def missing_images(names: Iterable[str], inspected: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of images that an engine lacks. inspected: the engine's images, Docker's JSON."""
    has = {tag for image in inspected for tag in image.get("RepoTags") or ()}
    return [name for name in names if name not in has]


def image_builds(
    plan: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, str], inspected: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the images that an engine has to build of those that `site_images` names.

    Such as::

        {"names": ["runtime", "hub"],        # of the plan
         "rounds": [["runtime"], ["hub"]],   # images of one round are built at once
         "base": True}                       # whether the base image is missing as well

    inspected: those of the wanted images and the base that the engine has, Docker's JSON.
    """
    base = str(plan["base"]["image"])
    missing = missing_images([base, *wanted.values()], inspected)
    names = [name for name, image in wanted.items() if image in missing]
    return {"names": names, "rounds": build_rounds(names, plan), "base": bool(names) and base in missing}


def pulled_images(pulled: Mapping[str, Any]) -> dict[str, Any]:
    """Return ids, sources and sizes of the images that the module `node_images` found or pulled.

    Such as::

        {"ids": {"prefix/hub:3f9c...": "sha256:...", ...},
         "further": [{"name", "source", "id"}, ...],       # from other registries
         "report": ["prefix/hub:3f9c...: 212 MB", ...]}

    pulled: the module's `images` and `sizes` (bytes by name).
    """
    return {
        "ids": {image["name"]: image["id"] for image in pulled["images"]},
        "further": [image for image in pulled["images"] if image["source"]],
        "report": [f"{name}: {round(size / 1e6)} MB" for name, size in pulled["sizes"].items()],
    }


def server_images(
    plan: Mapping[str, Mapping[str, Any]],
    prefix: str,
    further: Iterable[Mapping[str, str]],
    listed: Iterable[Mapping[str, Any]],
) -> dict[str, str]:
    """Return the images that servers may use: the name in XNAT to the name on the nodes.

    These are the single-user images that rollouts have built, and the extra ones. further: of `further_images`.
    listed: images of an engine, Docker's JSON.
    """
    tags = {tag for image in listed for tag in image.get("RepoTags") or ()}
    own = {str(tag) for tag in tags if tag.startswith(f"{prefix}/{SERVERS}:")} | {str(plan[SERVERS]["image"])}
    return {**{name: name for name in sorted(own)}, **{str(image["source"]): str(image["name"]) for image in further}}


def build_rounds(wanted: Sequence[str], plan: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return the names of wanted images in rounds: images of one round do not need each other and are built at once.

    plan: of image_plan; an image that is built on another has the other's name among its arguments.
    """
    rounds: list[list[str]] = []
    left = list(wanted)
    while left:
        awaited = {plan[name]["image"] for name in left}
        rounds.append([name for name in left if not awaited & set(plan[name]["args"].values())])
        left = [name for name in left if name not in rounds[-1]]
    return rounds


def build_context(files: Path, path: str, within: str = "") -> list[tuple[Path, str]]:
    """Return each file at or below a path of `files/` with its name in a build context, below `within` there."""
    root = files / path
    if root.is_file():
        return [(root, within)]
    found = sorted(child.relative_to(root) for child in root.rglob("*") if child.is_file())
    return [(root / child, str(PurePosixPath(within) / child)) for child in found if CACHE not in child.parts]


def further_images(references: Sequence[str], prefix: str) -> list[dict[str, str]]:
    """Return the names of extra images on the nodes: [{"name", "source"}, ...]. source: the image as the site names it.

    To run `quay.io/x/y:1`, an engine asks that registry at each start and runs whatever it has then. So an image that
    the rollout has checked gets a local name, derived from its source, that no registry knows. A name that begins with
    localhost/ is local already. Raises ImageError.
    """
    found: dict[str, str] = {}
    for reference in dict.fromkeys(references):
        match = REFERENCE.fullmatch(reference)
        if not match:
            raise ImageError(
                f"hub_images_further_singleuser has {reference!r}: use the form registry.example.org/path:tag or"
                " registry.example.org/path@sha256:DIGEST"
            )
        tag = match["tag"] or (match["digest"] or "latest")[:DIGITS]
        path = re.sub(r"[^a-z0-9._/-]", "-", match["name"].lower())
        own = reference.startswith(OWN) and not match["digest"]
        name = f"{match['name']}:{tag}" if own else f"{prefix}/further/{path}:{tag}"
        if name in found:
            raise ImageError(
                f"hub_images_further_singleuser has {found[name]} and {reference}, which would have the same name on"
                f" the nodes, {name}: remove one of them"
            )
        found[name] = reference
    return [{"name": name, "source": source} for name, source in found.items()]


def lacking_images(
    images: Mapping[str, Mapping[str, str]],
    hosts: Mapping[str, Mapping[str, Any]],
    ids: Mapping[str, str],
    plan: Mapping[str, Mapping[str, Any]],
    further: Sequence[str],
    builder: str,
) -> dict[str, list[str]]:
    """Return the missing images of the hosts that answered: {"w1": ["prefix/singleuser:..."], ...}.

    Managers may run hub, launcher, proxy and smoke test, all nodes guard and servers, the group demo_xnat the demo,
    the group edges the edge.
    images: ids by name from each host's report. hosts: of `fleet`. ids: the images' ids on the builder; images that it
    lacks are ignored. further: names of extra images on the nodes. builder: the host that built the images.
    """
    everywhere = [*(plan[image]["image"] for image in ON_NODES), *further]
    lacking: dict[str, list[str]] = {}
    for name, has in images.items():
        host = hosts[name]
        wanted = list(everywhere) if host["role"] else []
        if host["role"] == "manager":
            wanted += [plan[image]["image"] for image in ON_MANAGERS]
        if DEMO_XNAT in host["groups"]:
            wanted.append(plan["demo_xnat"]["image"])
        if EDGES in host["groups"]:
            wanted.append(plan["edge"]["image"])
        names = [image for image in wanted if image in ids and has.get(image) != ids[image]]
        if names and name != builder:
            lacking[str(name)] = names
    return lacking


def content_tag(inputs: dict[str, Any], files: Sequence[tuple[Path, str]]) -> str:
    """Return a hash, in hexadecimal digits, of values and files (path, name within the image)."""
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode())
    for path, name in files:
        digest.update(f"\0{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()[:DIGITS]


def check_lock(lock: Path, lists: Sequence[Path], jupyterhub_version: str) -> None:
    """Raise ImageError unless this is JupyterHub 5 (contract 2.3) and `lock` pins it and all packages in the lists."""
    if jupyterhub_version.split(".")[0] != "5":
        raise ImageError(
            f"hub_images_jupyterhub_version is {jupyterhub_version}: set it to 5.x, since JupyterHub 6 refuses the"
            " names that XNAT's plugin gives to servers, and JupyterHub 4 is no longer maintained"
        )
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", lock.read_text(), re.MULTILINE))
    pinned = {_canonical(name): version for name, version in pins.items()}
    if pinned.get("jupyterhub") != jupyterhub_version:
        raise ImageError(
            f"files/{lock.parent.name}/{lock.name} pins JupyterHub {pinned.get('jupyterhub', 'not at all')}, but"
            f" hub_images_jupyterhub_version is {jupyterhub_version}: run `make lock`"
        )
    for path in lists:
        for line in path.read_text().splitlines():
            match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", line)
            if match and _canonical(match[1]) not in pinned:
                raise ImageError(f"{path.name} lists {match[1]}, which {lock.name} does not pin: run `make lock`")


def locked_requirement(lock: Path, name: str) -> str:
    """Return a package of a lock file with its hashes, as one line for pip. Raises ImageError if it is not pinned."""
    found = re.search(rf"^{re.escape(name)}==\S+(?:[ \\\n]+--hash=\S+)*", lock.read_text(), re.MULTILINE)
    if not found:
        raise ImageError(f"{lock.name} does not pin {name}: run `make lock`")
    return " ".join(found[0].replace("\\", " ").split())


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
