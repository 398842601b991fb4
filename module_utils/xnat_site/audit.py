"""Reads the audit log: which lines a question concerns, and who had which data, when, on which node, until when.

`files/xnat_launcher/audit.py` describes the lines. `select` runs on the nodes, in the module `jupyterhub_audit`;
`query` and `report` run on the control node, as filters. Imports only the standard library.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timezone
from pathlib import Path
from typing import Any

UTC = timezone.utc  # noqa: UP017  (nodes may have Python 3.10)
Record = dict[str, Any]
Finding = dict[str, str]

FILE = re.compile(r"(\d{4}-\d\d-\d\d)\.jsonl")
KEY_FILE = "key"  # of the hashes of names that log-ins have if neither hub nor XNAT knows the name
SCHEMAS = (1,)  # of lines that are understood here
ASKED = ("project", "person", "since")
OF_A_SERVER = ("launch", "running", "stop", "end")
FORM = "set it to a date or a time of UTC, such as 2026-11-28 or 2026-11-28T14:30"
COLUMNS = ("person", "project", "item", "from", "until", "node", "result")


def query(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check what an administrator asks for.

    arguments: `project`, `person`, `since`, `until`, `audit_file`, each empty or missing if not asked for. Returns::

        {"findings": [{"id": "time", "name": "since", "text": "..."}],  # what is wrong; empty if nothing is
         "project": "P", "person": "", "since": "2026-11-01T00:00:00.000Z", "until": "",
         "audit_file": "/home/me/answer.json"}

    `until` with a date means the end of that day. A relative `audit_file` starts where Ansible was started.
    """
    found: dict[str, Any] = {name: str(arguments.get(name) or "").strip() for name in (*ASKED, "until")}
    findings: list[Finding] = []
    if not any(found[name] for name in ASKED):
        text = "Set what to look for: -e project=PROJECT, -e person=NAME or -e since=DATE, or several of them."
        findings.append({"id": "missing", "name": "project", "text": text})
    for name in ("since", "until"):
        try:
            found[name] = _instant(found[name], last=name == "until")
        except ValueError:
            findings.append({"id": "time", "name": name, "text": f"{name} is {found[name]!r}: {FORM}."})
    if not findings and found["until"] and found["until"] < found["since"]:
        findings.append({"id": "order", "name": "until", "text": "until is before since: set a later time."})
    file = str(arguments.get("audit_file") or "")
    file = str(Path(file).expanduser().absolute()) if file else ""
    if file and not Path(file).parent.is_dir():
        text = f"audit_file is {file}, whose directory does not exist on the control node: create it or set another."
        findings.append({"id": "file", "name": "audit_file", "text": text})
    return {"findings": findings, **found, "audit_file": file}


def name_hash(key: bytes, name: str) -> str:
    """Return what the log has instead of an unknown name. key: the content of KEY_FILE."""
    return hmac.new(key, name.encode(errors="surrogatepass"), "sha256").hexdigest()[:16]


def select(
    days: Iterable[str],
    read: Callable[[str], Iterable[bytes]],
    project: str = "",
    person: str = "",
    since: str = "",
    key: bytes = b"",
) -> tuple[list[Record], int]:
    """Return the lines of one node that a question concerns, and the number of lines that could not be read.

    days: the days that have a file, as `YYYY-MM-DD`. read: returns the lines of a day's file. A launch concerns a
    project if it is the project's, or mounts a directory with the project's name on its way: data may be shared. Reads
    the files since `since`, one before these, and older ones as long as launches of servers are missing that ran then.
    key: of the hashes of names, empty if it is not known; then refused log-ins with a person's name may be missing.
    """
    names = {person, name_hash(key, person)} if key else {person}
    ordered = sorted(days)
    first = max((day for day in ordered if day <= since[:10]), default="") if since else ""
    lines: list[Record] = []
    mine: set[str] = set()
    others: set[str] = set()
    unknown: dict[str, list[Record]] = {}  # by service: lines whose launch is in no file that was read
    broken = 0
    for day in ordered:
        if day < first:
            continue
        for record in _records(read(day)):
            if record is None:
                broken += 1
                continue
            event = record["event"]
            if event == "log_in":
                if not project and (not person or (record.get("user") or record.get("user_hash")) in names):
                    lines.append(record)
            elif event not in OF_A_SERVER:
                lines.append(record)
            elif person in ("", record.get("user")):
                service = str(record.get("service"))
                if event == "launch":
                    wanted = _concerns(record, project)
                    (mine if wanted else others).add(service)
                    (others if wanted else mine).discard(service)
                if service in mine:
                    lines.append(record)
                elif service not in others:
                    unknown.setdefault(service, []).append(record)
    for day in reversed(ordered):
        if not unknown:
            break
        if day >= first:
            continue
        launches: dict[str, Record] = {}
        for record in _records(read(day)):
            broken += record is None
            if record and record["event"] == "launch" and record.get("result") == "started":
                launches[str(record.get("service"))] = record
        for service in launches.keys() & unknown.keys():
            kept = unknown.pop(service)
            if _concerns(launches[service], project):
                lines += [launches[service], *kept]
    # Of the others only another node has the launch, or nobody any more.
    lines += [record for kept in unknown.values() for record in kept if _concerns(record, project)]
    return lines, broken


def report(results: Mapping[str, Mapping[str, Any]], hosts: Sequence[str], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return who had what, when and until when.

    results: by host, what the module `jupyterhub_audit` has returned. hosts: those that were asked. asked: a `query`.
    Returns::

        {"launches": [{"person": "jdoe", "server": "...", "project": "P", "item": "XNAT_E00001",
                       "xsi_type": "...", "mounts": [{"source", "target", "mode"}], "image": "...", "image_id": "...",
                       "from": TIME, "until": TIME or "", "state": "running", "ended", "refused" or "failed",
                       "node": "w1", "reason": "...", "service": "..."}],
         "log_ins": [{"time", "person", "user_hash", "source", "result", "reason"}],  # the hash of an unknown name
         "notes": ["w2 did not answer: ..."],   # what the answer lacks
         "table": "person  project ..."}        # all of it, lines for people
    """
    records = sorted(
        (record for result in results.values() for record in result.get("lines") or ()),
        key=lambda record: (str(record["time"]), record["event"] == "snapshot"),
    )
    since, until = str(asked["since"]), str(asked["until"]) or "~"  # sorts after every time
    launches = [
        entry.as_dict()
        for entry in _pair(records)
        if (entry.began or entry.until) <= until and (not entry.until or entry.until >= since)
    ]
    log_ins = [
        {
            "time": record["time"],
            "person": record.get("user") or (asked["person"] if record.get("user_hash") else ""),
            **{key: record.get(key) for key in _LOG_IN},
        }
        for record in records
        if record["event"] == "log_in" and since <= record["time"] <= until
    ]
    notes = list(_notes(results, hosts, records, since, until))
    return {"launches": launches, "log_ins": log_ins, "notes": notes, "table": _table(launches, log_ins, notes)}


_LOG_IN = ("user_hash", "source", "result", "reason")


@dataclass
class _Entry:
    """One launch. began: empty if its line is in no file. stopped: when its service was removed."""

    record: Record
    began: str
    node: str = ""
    until: str = ""
    state: str = "running"
    reason: str = ""
    stopped: str = ""
    round: str = ""

    def close(self, until: str, reason: str, state: str = "ended") -> None:
        self.until, self.reason, self.state = until, reason, state

    def as_dict(self) -> dict[str, Any]:
        record = self.record
        shown = {key: record.get(key) or "" for key in ("server", "project", "item", "xsi_type", "image", "image_id")}
        return {
            "person": record.get("user") or "",
            **shown,
            "mounts": record.get("mounts") or [],
            "from": self.began,
            "until": self.until,
            "state": self.state,
            "node": self.node,
            "reason": self.reason,
            "service": record.get("service") or "",
        }


def _pair(records: Iterable[Record]) -> list[_Entry]:
    """Pair launches with what became of them. records: in the order of their times, from all nodes."""
    entries: list[_Entry] = []
    living: dict[str, _Entry] = {}
    for record in records:
        event, at = record["event"], str(record["time"])
        service = str(record.get("service"))
        entry = living.get(service)
        if event == "launch" and record.get("result") == "started":
            if entry:
                entry.close(entry.stopped or at, "replaced by a newer launch of the same server")
            entries.append(_Entry(record, at))
            living[service] = entries[-1]
        elif event == "launch":
            state, reason = str(record.get("result")), str(record.get("reason"))
            if entry and record.get("begun"):
                entry.close(at, reason, state)
                del living[service]
            else:
                entries.append(_Entry(record, at, until=at, state=state, reason=reason))
        elif event == "running":
            if entry is None and record.get("round"):  # its launch is in no file
                entries.append(_Entry(record, ""))
                entry = living[service] = entries[-1]
            if entry:
                entry.node = str(record.get("node") or entry.node)
                entry.round = str(record.get("round") or entry.round)
        elif event == "stop" and entry:
            entry.stopped = at
        elif event == "end" and entry:
            entry.node = str(record.get("node") or entry.node)
            entry.close(_short(str(record.get("at") or "")) or at, str(record.get("reason")))
            del living[service]
        elif event == "snapshot":
            for name, other in list(living.items()):
                if other.round != record.get("round") and other.began < str(record.get("round")):
                    other.close(other.stopped or at, "" if other.stopped else "ended before this time")
                    del living[name]
    for entry in living.values():
        if entry.stopped:
            entry.close(entry.stopped, "stopped")
    return entries


def _notes(
    results: Mapping[str, Mapping[str, Any]], hosts: Sequence[str], records: Sequence[Record], since: str, until: str
) -> Iterator[str]:
    for host in hosts:
        if host not in results:
            yield f"{host} did not answer: if it has a part of the audit log, that part is missing here."
    if not any(result.get("found") for result in results.values()):
        yield "No node has an audit log: the launcher writes it once site.yml has deployed this version."
    for host, result in results.items():
        if result.get("broken"):
            yield (
                f"{host}: {result['broken']} lines cannot be read and were skipped, such as the last one before a power"
                " failure."
            )
    for record in records:
        if record["event"] == "dropped" and since <= record["time"] <= until:
            yield f"{record['time']}: {record.get('count')} {record.get('what')} were not recorded, too many came."
    newest = max((str(result.get("newest") or "") for result in results.values()), default="")
    if newest:
        yield f"The newest line of the audit log is of {newest}; what runs longer is not known here."


def _table(launches: Sequence[Record], log_ins: Sequence[Record], notes: Sequence[str]) -> str:
    rows = [COLUMNS, *(_row(launch) for launch in launches)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = []
    for row, launch in zip(rows, [{}, *launches], strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        lines += [
            _plain(f"    {mount['mode']}  {mount['source']}  on  {mount['target']}")
            for mount in launch.get("mounts", ())
        ]
    if not launches:
        lines = ["No launch matches."]
    for one in log_ins:
        # The name last and in quotes: anybody can enter any text as a name.
        who, source = json.dumps(_plain(one["person"]), ensure_ascii=False), _plain(one["source"])
        if one["user_hash"] and not one["person"]:
            who = f"an unknown name (hash {_plain(one['user_hash'])})"
        lines.append(f"log-in  {one['time']}  {one['result']}: {one['reason']}  from {source}  as {who}")
    return "\n".join((*lines, *notes))


def _row(launch: Record) -> tuple[str, ...]:
    until = launch["until"] or "still running"
    result = launch["state"] + (f": {launch['reason']}" if launch["reason"] else "")
    item = " ".join(filter(None, (launch["xsi_type"], launch["item"])))
    cells = (launch["person"], launch["project"], item, launch["from"] or "not known", until, launch["node"], result)
    return tuple(_plain(cell) for cell in cells)


def _plain(text: object) -> str:
    """Return a text without characters that would change an administrator's terminal, such as escape sequences."""
    return "".join(char if char.isprintable() else "?" for char in str(text))


def _concerns(record: Record, project: str) -> bool:
    if not project or record.get("project") == project:
        return True
    mounts = record.get("mounts") or ()
    return any(project in str(mount.get("source")).split("/") for mount in mounts)


def _records(lines: Iterable[bytes]) -> Iterator[Record | None]:
    """Yield each line's object, None for one that cannot be read."""
    for line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            valid = record["schema"] in SCHEMAS and isinstance(record["time"], str) and isinstance(record["event"], str)
        except (ValueError, TypeError, KeyError, RecursionError):
            valid = False
        yield record if valid else None


def _instant(text: str, last: bool) -> str:
    """Return a time as in the lines. last: whether a date means its end. Raises ValueError."""
    if not text:
        return ""
    try:
        moment = datetime.combine(date.fromisoformat(text), time.max if last else time.min)
    except ValueError:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _short(stamp: str) -> str:
    """Return one of Docker's times, with nanoseconds, as in the lines; empty for anything else."""
    try:
        return _instant(f"{stamp[:19]}Z", last=False)[:19] + f".{(stamp[20:-1] + '000')[:3]}Z" if stamp else ""
    except ValueError:
        return ""
