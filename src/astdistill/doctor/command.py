"""`astdistill doctor`: from words to a table, or JSON, and an exit code."""

from __future__ import annotations

import json

from rich.console import Console

from ..flags import Parser
from . import machinery, packages, places, trial
from .findings import Finding, guarded, table, verdict


def doctor(words: list[str]) -> int:
    """The exit code: 0 where astdistill works on this machine, 1 where something has to be mended first. Shows what was found."""
    given = _parser().parse_args(words)
    checks = {
        "versions": packages.versions,
        "memory": places.memory,
        "disk": places.disks,
        "GPU": machinery.gpus,
        "native engine": machinery.kernels,
        "engine": machinery.engine,
        "torch.compile": machinery.compiler,
        "extras": packages.extras,
        "data": lambda: places.data(given.network),
        trial.NAME: trial.trial,
    }
    findings: list[Finding] = []
    console = Console(stderr=True)
    for name, check in checks.items():
        with console.status(f"looking at: {name}"):
            findings += guarded(name, check)
    broken = any(finding.state == "bad" for finding in findings)
    if given.json:
        print(json.dumps({"works": not broken, "findings": [finding.to_json() for finding in findings]}, indent=2))
    else:
        Console().print(table(findings))
        Console().print(verdict(findings), style="bold", highlight=False)
    return int(broken)


def _parser() -> Parser:
    parser = Parser(
        prog="astdistill doctor",
        description="Versions, memory, disks, GPUs, engines, extras and data of this machine, and a miniature distillation: half a minute.",
        epilog="Exit code 0: it works here (– marks what is optional); 1: something is to be mended first.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--network", action="store_true", help="ask the Hugging Face hub, too, whether it answers")
    return parser
