#!/bin/sh
# Written by the role node_cleanup. Arguments: the age in days at which files of the audit log are removed, 0 for never, and the log's volume.
set -eu
days=$1 volume=$2

# Each start of a server leaves two empty volumes that are never used: `scratch` in files/xnat_launcher/service.py. Those of other deployments are
# just as useless. `docker volume prune` keeps volumes that have options. Docker refuses to remove a volume that a container has.
unused=$(docker volume ls --quiet --filter dangling=true --filter label=org.xnat.jupyterhub.scratch)
[ -z "$unused" ] || echo "$unused" | xargs docker volume rm --force

# The launcher removes old files on its own node only. A hub that was moved has left a part of the audit log on its old node.
[ "$days" -gt 0 ] || exit 0
folder=$(docker volume inspect --format '{{.Mountpoint}}' "$volume" 2>/dev/null) || exit 0
oldest=$(date --utc --date "$days days ago" +%F)
for file in "$folder"/[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9].jsonl; do
    day=${file##*/}
    if [ -e "$file" ] && [ "${day%.jsonl}" \< "$oldest" ]; then
        rm --verbose -- "$file"
    fi
done
