"""What a GPU makes of Paretune, in six minutes: `python benchmarks/gpu.py`.

It needs this repository, torch, timm and pyarrow; PEFT is compared with if it is installed. No network, no Ray. Each section has
its own budget of seconds, and a process of its own, so that a failure of one, or a device in a bad state after it, leaves the
others alone:

    equality     logits and gradients of every method against the CPU's
    speed        images per second of training steps against the frozen floor and PEFT's eager LoRA
    trunk        the frozen weights stored in bfloat16 once, compiled steps, code that is kept across trials, and CUDA graphs
    prefix       tokens in front of everything that a trial trains, kept or not
    memory       measured memory of steps against the computed one
    shares       two and four trials in one GPU against one after the other
    trial        a whole trial: 1,000 images, 100 epochs

Arms of a comparison run in turns (A-B-A-B), timed with CUDA events. Two files are written after every section, gpu-NAME.json and
gpu-NAME.md; the page begins with what was not run, and why.

    python benchmarks/gpu.py [--only speed trunk] [--to FOLDER]
    python benchmarks/gpu.py --device cpu --small --in-process     # every branch that a CPU can run, on a tiny model
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path[:] = [str(FOLDER.parent), *(path for path in sys.path if Path(path).resolve() != FOLDER)]  # here `search` is search.py

import timm
import torch

from benchmarks.gpu_sections import SECTIONS
from benchmarks.gpu_setup import NotRun, Setup, device_name, one_line

ALL = 360.0  # seconds of all sections, with their processes
STARTING = 15.0  # seconds for a process to start and end, before it is ended


# -- running -----------------------------------------------------------------------------------------------------------------------


def run(name: str, device: str, budget: float, *, small: bool) -> dict[str, Any]:
    """Run one section in this process."""
    function, begun = SECTIONS[name][0], time.monotonic()
    found: dict[str, Any] = {"section": name, "about": (function.__doc__ or "").strip(), "status": "done", "rows": []}
    try:
        found["rows"] = function(Setup(torch.device(device), small, begun + budget))
    except NotRun as reason:
        found |= {"status": "not run" if not reason.rows else "partly run", "why": str(reason), "rows": reason.rows}
    except Exception as error:  # a failure of one section is its result
        found |= {"status": "failed", "why": f"{type(error).__name__}: {one_line(error)}"}
    return found | {"seconds": time.monotonic() - begun}


def run_apart(name: str, device: str, budget: float, *, small: bool, starting: float = STARTING) -> dict[str, Any]:
    """Run one section in a process of its own, which is ended if it takes longer than its budget and the start of a process."""
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / "found.json"
        words = [sys.executable, __file__, "--section", name, "--device", device, "--budget", str(budget), "--json", str(to)]
        begun = time.monotonic()
        nothing = {"section": name, "about": (SECTIONS[name][0].__doc__ or "").strip(), "status": "failed", "rows": []}
        try:
            done = subprocess.run(
                [*words, *(["--small"] if small else [])],
                timeout=budget + starting, capture_output=True, text=True, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            why = f"ended after {budget + starting:.0f} s"
        else:
            if to.exists():
                return {**json.loads(to.read_text()), "seconds": time.monotonic() - begun}
            why = f"exit code {done.returncode}: {one_line(done.stderr[-2000:].strip().splitlines()[-1:] or ['no message'])}"
        return {**nothing, "why": why, "seconds": time.monotonic() - begun}


def everything(
    names: Sequence[str], device: str, to: Path, *, small: bool, apart: bool, seconds_of_all: float = ALL
) -> list[dict[str, Any]]:
    """Run sections one after the other, and write both files after each."""
    until, found = time.monotonic() + seconds_of_all, list[dict[str, Any]]()
    for name in names:
        budget = min(SECTIONS[name][1], until - time.monotonic() - (STARTING if apart else 0.0))
        if budget <= 0:
            found.append(
                {"section": name, "status": "not run", "why": f"{seconds_of_all:.0f} s were over", "rows": [], "seconds": 0}
            )
        else:
            print(f"{name}: at most {budget:.0f} s", file=sys.stderr, flush=True)
            found.append((run_apart if apart else run)(name, device, budget, small=small))
        write(found, names, device, to, small=small)
    return found


def write(found: Sequence[Mapping[str, Any]], names: Sequence[str], device: str, to: Path, *, small: bool) -> None:
    """Write the JSON and the page."""
    where = device_name(torch.device(device))
    machine = {"device": where, "torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()}
    to.mkdir(parents=True, exist_ok=True)
    path = to / f"gpu-{re.sub(r'[^a-z0-9]+', '-', where.lower()).strip('-')}.json"
    path.write_text(json.dumps({"machine": machine, "small": small, "sections": list(found)}, indent=1) + "\n")
    path.with_suffix(".md").write_text(page(found, names, machine, small=small))


def page(found: Sequence[Mapping[str, Any]], names: Sequence[str], machine: Mapping[str, str], *, small: bool) -> str:
    """The results as Markdown: what was not run first, then a table for each section."""
    lines = [f"# {machine['device']}", "", ", ".join(f"{key} {value}" for key, value in machine.items() if key != "device") + "."]
    if small:
        lines += ["", "**The small form: it shows that the code runs. Its numbers say nothing about a GPU.**"]
    lacking = [f"- {one['section']}: {one['status']}: {one['why']}" for one in found if one["status"] != "done"]
    lacking += [
        f"- {one['section']}: {next(iter(row.values()))}: {row['why']}" for one in found for row in one["rows"] if "why" in row
    ]
    left_out = [name for name in SECTIONS if name not in names]
    lacking += [f"- {name}: not asked for" for name in left_out]
    lacking += [f"- {name}: not reached" for name in names if name not in {one["section"] for one in found}]
    lines += ["", "## Not run, or failed", "", *(lacking or ["- nothing"])]
    for one in found:
        lines += ["", f"## {one['section']}: {one['status']}, {one['seconds']:.1f} s", "", one.get("about", ""), ""]
        columns = list(dict.fromkeys(key for row in one["rows"] for key in row))
        if columns:
            lines += [_row(columns), _row(["---"] * len(columns))]
            lines += [_row([_cell(row.get(column)) for column in columns]) for row in one["rows"]]
    return "\n".join(lines).rstrip() + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.4g}" if isinstance(value, float) else str(value).replace("|", "/")


def main(words: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="a tiny model, two rounds")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--in-process", action="store_true", help="no process of its own for each section")
    parser.add_argument("--section", choices=list(SECTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--budget", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if args.device == "cpu" and not args.small:
        parser.error("there is no GPU: run the small form with --device cpu --small")
    if args.section is not None:
        args.json.write_text(json.dumps(run(args.section, args.device, args.budget, small=args.small)))
        return
    everything(args.only, args.device, args.to, small=args.small, apart=not args.in_process)


if __name__ == "__main__":
    main()
