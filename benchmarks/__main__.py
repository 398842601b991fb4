"""Run the benchmarks and print one table. `make bench` calls this in a container; see benchmarks/README.md."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

from benchmarks.bed import FEATHER, Bed, DockerError
from benchmarks.measures import FLOOR, MEASURES, USERS, Row
from benchmarks.slow_xnat import SlowXnat

RESULTS = Path(__file__).parent / "results"


def table(rows: list[Row], sides: list[str]) -> str:
    """Return the rows as text: each side's median and, for more than one run, its smallest and largest value."""
    others = [side for side in sides if side != "ours"]
    lines = [["measure", "unit", *sides, *(f"ours/{side}" for side in others), "target", "met"]]
    for row in rows:
        ours, target = row.median("ours"), row.target()
        met = "" if target is None or ours is None else "yes" if ours <= target else "no"
        medians = [row.median(side) for side in others]
        ratios = [f"{ours / other:.2f}" if ours is not None and other else "" for other in medians]
        cells = [_cell(row.runs.get(side, [])) for side in sides]
        lines.append([row.measure, row.unit, *cells, *ratios, "" if target is None else f"<= {_number(target)}", met])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    middle = (
        sorted(values)[len(values) // 2] if len(values) % 2 else sum(sorted(values)[len(values) // 2 - 1 :][:2]) / 2
    )
    return _number(middle) + (f" ({_number(min(values))}-{_number(max(values))})" if len(values) > 1 else "")


async def main(names: list[str], n: int | None, before: Path | None) -> None:
    """Build the test bed, run the measures, print and store the table, and remove everything."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)  # type: ignore[union-attr]
    bed, xnat = Bed(), SlowXnat()
    rows: list[Row] = []
    try:
        print("Creating swarm, network and images ...", flush=True)
        await bed.up(before)
        await xnat.up(8080)
        xnat.image, xnat.command = FEATHER, "perl /feather.pl"
        for name in bed.sides:
            hub = await bed.hub(name, name)
            await hub.add_users(USERS)
            await hub.start([(USERS[0], "warm-up")])
            await hub.stop([(USERS[0], "warm-up")])
        await bed.clear_servers()
        for name in names:
            measure, usual = MEASURES[name]
            print(f"{name} ...", flush=True)
            rows += await measure(bed, xnat, n or usual)
    finally:
        if rows:
            print(f"\n{table(rows, [FLOOR, *bed.sides])}\n", flush=True)
            RESULTS.mkdir(exist_ok=True)
            path = RESULTS / time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime())
            found = [
                {"measure": row.measure, "unit": row.unit, "runs": row.runs, "limit": row.target()} for row in rows
            ]
            path.write_text(json.dumps({"cpus": os.cpu_count(), "rows": found}, indent=1) + "\n")
            print(f"Stored in benchmarks/results/{path.name}. Removing everything ...", flush=True)
        await bed.clear()
        await bed.remove_images()
        await xnat.down()
        await bed.docker.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, prog="benchmarks")
    parser.add_argument("names", nargs="*", help=f"measures to run: {', '.join(MEASURES)}; default: all")
    parser.add_argument("-n", type=int, help="repetitions of each measure")
    parser.add_argument("--before", type=Path, help="an older checkout of the project to compare with")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MEASURES):
        parser.error(f"unknown measure: {', '.join(sorted(unknown))}")
    try:
        asyncio.run(main(arguments.names or list(MEASURES), arguments.n, arguments.before))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("Interrupted; everything has been removed.")
    except DockerError as error:
        sys.exit(str(error))
