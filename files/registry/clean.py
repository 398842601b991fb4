#!/usr/bin/python3
"""Delete all tags except the named ones, then garbage-collect unused layers: `clean repository:tag ...`.

Nobody may push to the registry meanwhile.
"""

import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORIES = Path("/var/lib/registry/docker/registry/v2/repositories")


def main(keep: set[str]) -> None:
    """Remove tags, then layers."""
    removed = 0
    for tag in sorted(REPOSITORIES.glob("**/_manifests/tags/*")):
        name = f"{tag.relative_to(REPOSITORIES).parents[2]}:{tag.name}"
        if name not in keep:
            shutil.rmtree(tag)
            removed += 1
    if removed:
        collect = ["docker-registry", "garbage-collect", "--delete-untagged", "/etc/xnat-registry/config.yml"]
        subprocess.run(collect, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    print(removed)


if __name__ == "__main__":
    main(set(sys.argv[1:]))
