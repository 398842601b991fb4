"""Checks that an offline bundle is complete and made for a site, and finds the parts to write.

Used on the control node by the filters of `filter_plugins/bundle.py`; only the standard library is imported. A bundle
is a directory::

    images.tar                images as `docker save` writes them
    packages/<codename>.tar   a flat apt repository: packages and their index `Packages`
    wheels/*.whl              what the control node needs
    bundle.json               the manifest, written last: contents, size and SHA-256 of every file, the project's
                              version that wrote it, and the settings of the site that it is for
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MANIFEST = "bundle.json"
FORMAT = 2
IMAGES = "images.tar"
WHEELS = "wheels"
FIRST_WITH_VERSION = "0.1.0"  # older bundles do not contain their version
UNITS = ("Bytes", "KB", "MB", "GB")  # each 1024 of the one before
# A line of `apt-get --simulate` for a package to install, which may replace [another version].
SIMULATED = re.compile(r"Inst (?P<name>\S+) (?:\[\S+\] )?\((?P<version>\S+) .*")
AGAIN = "copy the bundle again, or write it again with playbooks/bundle.yml"


class BundleError(ValueError):
    """The bundle is not usable. The message is one sentence that says what to do.

    id: the rule: absent, unreadable, version, settings, architecture, release, image, damaged, incomplete, index or
    apt.
    """

    def __init__(self, id: str, sentence: str) -> None:
        super().__init__(sentence)
        self.id = id


def project_version() -> str:
    """Return the project's version, such as "0.1.0", from its file VERSION. Raises OSError without that file."""
    return (Path(__file__).resolve().parents[2] / "VERSION").read_text().strip()


def packages_file(codename: str) -> str:
    """Return the path of a release's packages in a bundle."""
    return f"packages/{codename}.tar"


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return bundle.json. Raises BundleError (absent, unreadable, version) without one of this format."""
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(
            "absent",
            f"There is no {MANIFEST} in {directory}, so the bundle is missing or incomplete: write it with"
            " playbooks/bundle.yml",
        ) from None
    except (OSError, ValueError) as error:
        raise BundleError("unreadable", f"{MANIFEST} in {directory} cannot be read ({error}): {AGAIN}") from error
    if not isinstance(manifest, dict):
        raise BundleError("unreadable", f"{MANIFEST} in {directory} is not the manifest of a bundle: {AGAIN}")
    if manifest.get("format") != FORMAT:
        raise _of_another_version(directory, manifest)
    return manifest


def _of_another_version(directory: Path, manifest: Mapping[str, Any]) -> BundleError:
    written, version = manifest.get("version"), project_version()
    by = f"version {written}" if written else f"a version before {FIRST_WITH_VERSION}"
    return BundleError(
        "version",
        f"The bundle in {directory} was written by {by if written != version else f'an earlier state of {by}'} of the"
        f" project, and this project is version {version}: write it again with this project at a connected site"
        " (ansible-playbook playbooks/bundle.yml -i INVENTORY -e bundle_dir=DIRECTORY)",
    )


def bundle(
    directory: str,
    images: Iterable[str] = (),
    releases: Mapping[str, str] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    architectures: Mapping[str, str] | None = None,
    checksums: bool = True,
) -> dict[str, Any]:
    """Return bundle.json of a bundle that is complete and has everything that a site needs.

    images: names. settings: the variables on which the images depend, such as {"site_uid": 1500}. releases,
    architectures: for each host the codename of its system, and its architecture. checksums: whether to read all files,
    which takes about a second for each gigabyte. Raises BundleError for the first problem.
    """
    root = Path(directory)
    manifest = read_manifest(root)
    if manifest.get("version") != project_version():
        raise _of_another_version(root, manifest)
    made_for = manifest["settings"]
    differ = [name for name, value in (settings or {}).items() if str(made_for.get(name)) != str(value)]
    if differ:
        had = ", ".join(f"{name} {made_for.get(name)!r}" for name in differ)
        wanted = ", ".join(f"{name} {(settings or {})[name]!r}" for name in differ)
        raise BundleError(
            "settings",
            f"The bundle in {directory} is made for a site with {had}, but this one has {wanted}: write a bundle with"
            " these settings (set them for playbooks/bundle.yml with -e)",
        )
    for host, architecture in (architectures or {}).items():
        if architecture != manifest["architecture"]:
            raise BundleError(
                "architecture",
                f"The bundle in {directory} is for {manifest['architecture']} machines, but {host} is a"
                f" {architecture} machine: write it (playbooks/bundle.yml) at a connected site with such machines",
            )
    for host, codename in (releases or {}).items():
        if codename not in manifest["packages"]:
            has = " and ".join(sorted(manifest["packages"]))
            raise BundleError(
                "release",
                f"The bundle in {directory} has packages for {has}, but {host} runs {codename or 'another system'}:"
                " write it (playbooks/bundle.yml) at a connected site that has such a host",
            )
    for name in images:
        if name not in manifest["images"]:
            raise BundleError(
                "image",
                f"The bundle in {directory} lacks the image {name}: write it (playbooks/bundle.yml) with this version"
                " of the project and these settings",
            )
    for name, wanted in manifest["files"].items():
        if not _is_as_written(root / name, wanted, checksums):
            raise BundleError("damaged", f"{name} of the bundle in {directory} is missing or damaged: {AGAIN}")
    return manifest


@dataclass(frozen=True)
class Outdated:
    """The parts of a bundle to write: images, packages by codenames of releases, wheels."""

    images: bool
    packages: tuple[str, ...]
    wheels: bool

    @property
    def parts(self) -> list[str]:
        """The files and directories."""
        packages = [packages_file(codename) for codename in self.packages]
        return [*([IMAGES] if self.images else []), *packages, *([WHEELS] if self.wheels else [])]


def bundle_outdated(directory: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to write: the fields of `Outdated` and its `parts`.

    Parts that another version of the project wrote are kept if their content is the wanted one; bundle.json is always
    written.

    wanted::

        {"images": {"prefix/hub:3f9c...": "sha256:...", ...},    # ids by names
         "settings": {"site_uid": 1500, ...},                     # on which the images depend
         "architecture": "x86_64",
         "packages": {"trixie": ["docker.io=26.1.5+dfsg1-9", ...]},
         "requirements": "..."}                                   # SHA-256 of the control node's list of packages
    """
    root = Path(directory)
    try:
        manifest = read_manifest(root)
    except BundleError:
        manifest = {"images": {}, "packages": {}, "requirements": "", "files": {}}
    broken = {name for name, entry in manifest["files"].items() if not _is_as_written(root / name, entry, False)}
    outdated = Outdated(
        images=IMAGES in broken or manifest["images"] != wanted["images"],
        packages=tuple(
            str(codename)
            for codename, versions in wanted["packages"].items()
            if packages_file(codename) in broken
            or manifest["packages"].get(codename, {}).get("versions") != sorted(versions)
        ),
        wheels=manifest["requirements"] != wanted["requirements"]
        or any(name.startswith(f"{WHEELS}/") for name in broken),
    )
    return {**asdict(outdated), "parts": outdated.parts}


def bundle_contents(directory: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of bundle.json for the files in a directory; for `wanted` see `bundle_outdated`.

    Raises BundleError if one of them is missing.
    """
    root = Path(directory)
    wheels = sorted(path.relative_to(root).as_posix() for path in (root / WHEELS).glob("*.whl"))
    names = [IMAGES, *(packages_file(codename) for codename in sorted(wanted["packages"])), *wheels]
    for name in names:
        if not (root / name).is_file():
            raise BundleError("incomplete", f"{name} is missing in {directory}: run playbooks/bundle.yml again")
    return {
        "format": FORMAT,
        "version": project_version(),
        "images": dict(wanted["images"]),
        "settings": dict(wanted["settings"]),
        "architecture": wanted["architecture"],
        "packages": {
            codename: {"index": _index(root / packages_file(codename)), "versions": sorted(versions)}
            for codename, versions in wanted["packages"].items()
        },
        "requirements": wanted["requirements"],
        "files": {name: {"size": (root / name).stat().st_size, "sha256": _sha256(root / name)} for name in names},
    }


def bundle_summary(directory: str, pythons: Iterable[str]) -> str:
    """Return in a few lines what a complete bundle contains and which sites can use it.

    pythons: versions that the wheels are for. Raises BundleError if the bundle is not complete.
    """
    manifest = bundle(directory, checksums=False)
    sizes = {name: int(entry["size"]) for name, entry in manifest["files"].items()}
    wheels = sum(size for name, size in sizes.items() if name.startswith(f"{WHEELS}/"))
    rows = [(name, amount(size)) for name, size in sizes.items() if not name.startswith(f"{WHEELS}/")]
    rows.append((f"{WHEELS}/", f"{amount(wheels)}, for Python {', '.join(pythons)}"))
    settings = ", ".join(f"{name} {value}" for name, value in sorted(manifest["settings"].items()))
    return "\n".join(
        [
            f"{directory} is a complete bundle:",
            *(f"{name:24} {size}" for name, size in rows),
            f"It is for sites with {settings} on {manifest['architecture']} machines.",
        ]
    )


def packages_to_bundle(always: Iterable[str], packages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the packages for a bare host: those in `always`, and those that the reported host has installed.

    packages: the state of each package as the module `node_report` returns it.
    """
    return [*always, *sorted(name for name, state in packages.items() if state["status"] == "installed")]


def simulated_packages(lines: Iterable[str]) -> list[str]:
    """Return NAME=VERSION of all packages that apt would install, sorted. lines: of `apt-get --simulate install`.

    Raises BundleError for a line in an unknown form.
    """
    found = []
    for line in lines:
        if not line.startswith("Inst "):
            continue
        match = SIMULATED.fullmatch(line)
        if not match:
            raise BundleError(
                "apt", f"apt-get --simulate wrote {line!r}, which has an unknown form: report this as a bug"
            )
        found.append(f"{match['name']}={match['version']}")
    return sorted(found)


def amount(size: float) -> str:
    """Return a number of bytes in a readable unit, such as 1.21 GB."""
    power = 0
    while size >= 1024 and power < len(UNITS) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.2f} {UNITS[power]}"


def _is_as_written(path: Path, wanted: Mapping[str, Any], checksums: bool) -> bool:
    try:
        return path.stat().st_size == wanted["size"] and (not checksums or _sha256(path) == wanted["sha256"])
    except OSError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _index(path: Path) -> str:
    """Return the SHA-256 of the index of a repository, which contains the SHA-256 of its packages."""
    with tarfile.open(path) as archive:
        index = archive.extractfile("Packages") if "Packages" in archive.getnames() else None
        if index is None:
            raise BundleError("index", f"{path} has no index of packages: remove it and write the bundle again")
        return hashlib.sha256(index.read()).hexdigest()
