"""Proves and measures everything on a GPU, with one command, in up to 25 minutes.

    python experiments/gpu_check.py [--out FILE] [--data STORE] [--minutes M]
        [--only SECTION] ...

Every section runs in processes of its own, against its own time limit: one that fails,
hangs or crashes the GPU's driver is reported and the others go on. What matters most
comes first. A section may take what earlier ones left, never what later ones need;
where time is too short for all, the last are skipped. A table is printed last, and
under it which of the goals (`gpu_goals`) are met; one JSON file holds all of it. It is
written after each section, so that a kill loses the section that runs, no other: the
same command again goes on with those that are not done, last with those that failed. So
where a command may take ten minutes at most, `--minutes 9` does it in pieces.

Works from a source tree that is not installed, with the core packages, CuPy and pytest;
PyTorch is compared with where there is one, and kernels are profiled where there is
ncu. Without a GPU the emulated device takes its place in small, and what needs a GPU is
named as skipped. Where there is no Git to say which commit runs, `MINICNN_COMMIT` in
the environment may.
"""

from __future__ import annotations

import datetime
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":  # runs from a tree that is not installed, too
    sys.path[0] = str(ROOT)

from minicnn.experiments.checkup import (  # noqa: E402
    Checkup,
    Failed,
    Record,
    Skipped,
)
from minicnn.experiments.gpu_goals import verdicts  # noqa: E402
from minicnn.experiments.gpu_sections import SECTIONS  # noqa: E402

RESULTS = ROOT / "experiments" / "results"
LEAST = 5.0  # seconds that a section needs to be worth starting
GOALS = "goals"  # in the file, beside the sections
OK, SKIPPED, FAILED = "ok", "skipped", "FAILED"


def due(results: Mapping[str, Record], only: Sequence[str]) -> list[str]:
    """The names of the sections to run, in order.

    Args:
        results: of an earlier command.
        only: those that are asked for; none: all that are not done, those that failed
            last.
    """
    if only:
        return [name for name in SECTIONS if name in only]
    states = {name: results.get(name, {}).get("state") for name in SECTIONS}
    names = [name for name in SECTIONS if states[name] != OK]
    return sorted(names, key=lambda name: states[name] == FAILED)


def earlier(file: Path, gpu: str, commit: str) -> dict[str, Record]:
    """What a file holds from an earlier command, or nothing.

    Raises:
        ClickException: it is of another commit or GPU, or cannot be read.
    """
    from minicnn.base.errors import MinicnnError
    from minicnn.base.files import read_json

    try:
        found = read_json(file) if file.exists() else {}
    except MinicnnError as error:
        raise click.ClickException(f"--out {error}; name another file") from None
    about = found.get("environment", {})
    if about.get("state") == OK:
        now = {"commit": commit, "gpu": gpu or None}
        for what, value in now.items():
            if (of := about.get(what)) != value:
                raise click.ClickException(
                    f"--out {file}: of {what} {of}, and this is {value}; name another "
                    "file"
                )
    found.pop(GOALS, None)  # they are judged anew
    return found


def run(
    check: Checkup, name: str, work: Callable[[Checkup], Record], budget: float = 0.0
) -> Record:
    """One section: its record, with "state", "seconds" and "summary"; never raises.

    Args:
        budget: seconds that it should have: with less it is no failure if time ends.
    """
    began = time.monotonic()
    short = check.left() < budget
    try:
        if check.left() < LEAST:
            raise Skipped("no time was left")
        record = work(check)
        record["state"] = FAILED if record.get("problem") else OK
    except Skipped as reason:
        said = str(reason).splitlines()
        record = {"state": SKIPPED, "summary": said[0]}
        if said[1:]:
            record["why"] = str(reason)
    except Exception as error:  # whatever it is, the other sections are still to come
        said = str(error) if isinstance(error, Failed) else repr(error)
        record = {"state": FAILED, "problem": said}
        # What was done, and of a traceback or log below it what went wrong.
        lines = said.strip().splitlines() or ["failed"]
        record["summary"] = " … ".join(dict.fromkeys((lines[0], lines[-1].strip())))
    record["seconds"] = round(time.monotonic() - began, 1)
    if short and record["state"] == FAILED and check.left() < LEAST:
        record["state"] = SKIPPED
        record["summary"] = f"too little time; {record['summary']}"
    click.echo(f"{name}: {record['state']}, {record['seconds']} s. {record['summary']}")
    if record.get("problem"):
        click.echo(record["problem"])
    return record


def table(results: dict[str, Record]) -> str:
    """The sections for people."""
    width = max(map(len, results))
    return "\n".join(
        f"{name:{width}}  {each['state']:8}{each['seconds']:7.1f} s  {each['summary']}"
        for name, each in results.items()
    )


def default_out(gpu: str) -> Path:
    """experiments/results/, named after the GPU and the day."""
    name = re.sub(r"\W+", "-", gpu).strip("-").lower()
    return RESULTS / f"{name}-{datetime.date.today()}.json"


def gpu_name() -> str:
    """The first GPU's, or "" where none answers."""
    from minicnn.devices.device import cuda_count

    if not cuda_count():
        return ""
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()


def run_all(check: Checkup, names: Sequence[str], file: Path | None) -> None:
    """Runs sections; each may take what the budgets of later ones leave."""
    from minicnn.base.files import make_folder, write_json

    for number, name in enumerate(names):
        later = sum(SECTIONS[each].budget for each in names[number + 1 :])
        check.reserved = 0.0
        check.reserved = max(0.0, min(later, check.left() - SECTIONS[name].budget))
        section = SECTIONS[name]
        check.results[name] = run(check, name, section.work, section.budget)
        if file:
            make_folder(file.parent)
            judged = [vars(each) for each in verdicts(check.results)]
            write_json(file, {**check.results, GOALS: judged})


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="JSON file; default: in experiments/results, none without a GPU.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Store to train on; default: the demo set.",
)
@click.option("--minutes", type=float, help="Time; default: for all that is due.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(SECTIONS)),
    help="Only this section; may be repeated.",
)
def main(
    out: Path | None,
    data: Path | None,
    minutes: float | None,
    only: tuple[str, ...],
) -> None:
    """Prove and measure everything on a GPU.

    The same command again goes on with what is not done, so that it can be had in
    pieces:

    \b
    python experiments/gpu_check.py --minutes 9 --out gpu.json
    python experiments/gpu_check.py --minutes 9 --out gpu.json

    docs/kernels.md says how to look at one kernel with ncu and compute-sanitizer.
    """
    from minicnn.training.environment import commit

    data = data.resolve() if data else None
    gpu = gpu_name()
    file = out or (default_out(gpu) if gpu else None)
    found = earlier(file, gpu, commit()) if file else {}
    names = due(found, only)
    seconds = sum(SECTIONS[name].budget for name in names)
    deadline = time.monotonic() + (60 * minutes if minutes else seconds)
    with tempfile.TemporaryDirectory() as place:
        check = Checkup(bool(gpu), Path(place), deadline, data, found)
        if not check.gpu:
            click.echo("No GPU answers: the emulated device takes its place, in small.")
        done = [name for name in found if name not in names]
        if done and not only:
            click.echo(f"Done before, in {file}: {', '.join(done)}.")
        run_all(check, names, file)
    click.echo("\n" + table(check.results) + "\n")
    for each in verdicts(check.results):
        click.echo(each)
    if file:
        click.echo(f"Written: {file}")
    sys.exit(any(check.results[name]["state"] == FAILED for name in names))


if __name__ == "__main__":
    main()
