#!/usr/bin/env python3
"""Compares what an Autobahn run found with what docs/conformance says it finds.

    compare.py EXPECTED OUTDIR --cases N [--except PATTERN]... [--label TEXT] [--accept]

OUTDIR/index.json is the run's report: agent -> case -> what it came to. A run that went wrong does not say so, it just
has fewer cases. So there must be N of them, those in EXPECTED that match no PATTERN, and each must come to the same.
With --accept EXPECTED need not be there: then it is written from the run, if that has N cases.

Exit codes: 0 all as expected, 1 not.
"""

import argparse
import collections
import fnmatch
import json
import pathlib
import sys

KEYS = ("behavior", "behaviorClose")
FAULTS_SHOWN = 30


def main() -> int:
    arguments = parse_arguments()
    found, details = read_run(arguments.outdir)
    if arguments.accept and not arguments.expected.exists() and len(found) == arguments.cases:
        write(arguments.expected, found)
    expected = read_expected(arguments.expected, arguments.excepted)

    faults = [
        f"  {case:<8} {say(expected.get(case))} expected, {say(found.get(case))} found{details.get(case, '')}"
        for case in sorted(expected.keys() | found.keys(), key=in_order)
        if expected.get(case) != found.get(case)
    ]
    for name, cases in (("the run", found), (arguments.expected.name, expected)):
        if len(cases) != arguments.cases:
            faults.insert(0, f"  {name} has {len(cases)} cases instead of {arguments.cases}")

    counts = collections.Counter(say(result) for result in found.values())
    summary = ", ".join(f"{count} {result}" for result, count in counts.most_common())
    verdict = f"{len(faults)} DIFFERENCES" if faults else "as expected"
    print(f"{arguments.label}: {len(found)} cases: {summary or 'none'}: {verdict}")
    for fault in faults[:FAULTS_SHOWN]:
        print(fault)
    if len(faults) > FAULTS_SHOWN:
        print(f"  and {len(faults) - FAULTS_SHOWN} more")
    return 1 if faults else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("expected", type=pathlib.Path)
    parser.add_argument("outdir", type=pathlib.Path)
    parser.add_argument("--cases", type=int, required=True)
    parser.add_argument("--except", action="append", dest="excepted", default=[])
    parser.add_argument("--label", default="conformance")
    parser.add_argument("--accept", action="store_true")
    return parser.parse_args()


def read_expected(path: pathlib.Path, excepted: list[str]) -> dict:
    cases = json.loads(path.read_text()) if path.exists() else {}
    return {
        case: result
        for case, result in cases.items()
        if not any(fnmatch.fnmatchcase(case, pattern) for pattern in excepted)
    }


def read_run(outdir: pathlib.Path) -> tuple[dict, dict]:
    """What the run found for its only agent: case -> KEYS, and case -> where to read on."""
    try:
        agents = json.loads((outdir / "index.json").read_text())
    except (OSError, ValueError) as e:
        print(f"no report: {e}", file=sys.stderr)
        agents = {}
    if len(agents) > 1:
        sys.exit(f"several agents in {outdir}: {', '.join(agents)}")
    results = next(iter(agents.values()), {})
    found = {case: {key: result[key] for key in KEYS} for case, result in results.items()}
    details = {
        case: f" (close code {result['remoteCloseCode']}, {result['duration']} ms, {outdir / result['reportfile']})"
        for case, result in results.items()
    }
    return found, details


def write(path: pathlib.Path, found: dict) -> None:
    """One line for each case, in the suite's order."""
    lines = (f"  {json.dumps(case)}: {json.dumps(found[case])}" for case in sorted(found, key=in_order))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def say(result: dict | None) -> str:
    """`OK`, if both are; `FAILED/UNCLEAN`; `nothing`."""
    if result is None:
        return "nothing"
    return "/".join(dict.fromkeys(result[key] for key in KEYS))


def in_order(case: str) -> list[int]:
    return [int(part) for part in case.split(".")]


if __name__ == "__main__":
    sys.exit(main())
