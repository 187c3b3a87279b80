"""What a comparison with PyTorch found, as JSON has it, and its table."""

from __future__ import annotations

from typing import Any

from minicnn.experiments.printing import columns

Record = dict[str, Any]
# minicnn's precisions that are as exact as one of PyTorch's, if not that one alone.
AS_EXACT = {"fp32": ("fp32", "tf32x3")}
BUSY = 0.2  # processors that others may use before the table says so


def as_exact(precision: str) -> tuple[str, ...]:
    """minicnn's precisions that are as exact as that one of PyTorch's."""
    return AS_EXACT.get(precision, (precision,))


def compared(ours: list[Record], theirs: list[Record]) -> Record:
    """minicnn's turns beside PyTorch's.

    Returns:
        "ours"; "theirs", with the "ratios" of their times to minicnn's in each
        precision that is as exact; "best", their fastest mode's name by precision.
    """
    medians = {each["precision"]: each["median"] for each in ours}
    beside = []
    for each in theirs:
        names = [name for name in as_exact(each["precision"]) if name in medians]
        ratios = {name: each["median"] / medians[name] for name in names}
        beside.append({**each, "ratios": ratios})
    slowest_first = sorted(theirs, key=lambda each: -each["median"])
    best = {each["precision"]: each["name"] for each in slowest_first}
    return {"ours": ours, "theirs": beside, "best": best}


def table(record: Record) -> str:
    """The comparison for people."""
    both = {
        who: " and ".join(f"{loss:.6f}" for loss in losses)
        for who, losses in record["losses"].items()
    }
    alone: list[Record] = []
    for tried in record["tried"]:
        alone.append({"PyTorch's modes, each alone": tried["mode"]})
        if tried["seconds"]:
            rate = record["batch"] / tried["seconds"]
            alone[-1] |= {"ms": tried["seconds"] * 1e3, "images/s": rate}
        else:
            alone[-1]["failed"] = tried["error"]
    named = [(f"minicnn {each['precision']}", each) for each in record["ours"]]
    named += [(f"PyTorch {each['name']}", each) for each in record["theirs"]]
    in_turns = []
    for name, each in named:
        ratios = each.get("ratios", {}).items()
        in_turns.append(
            {
                f"In turns, median of {len(each['seconds'])} rounds": name,
                "ms": each["median"] * 1e3,
                "least": min(each["seconds"]) * 1e3,
                "most": max(each["seconds"]) * 1e3,
                "images/s": each["images_per_second"],
                "ratio": ", ".join(f"{x:.2f} of {kind}" for kind, x in ratios),
            }
        )
    busy = (
        f"\nOther programs kept {record['busy'] or 0:.1f} processors busy: measure "
        "again when the machine is idle."
    )
    return (
        f"PyTorch {record['torch']}, the same training step of {record['arch']}, batch "
        f"{record['batch']}, on {record['device']}, {record['threads']} threads.\n"
        "Losses of the same weights and batch, before and after an update: minicnn "
        f"{both['minicnn']}, PyTorch {both['torch']}.\n\n"
        f"{columns(alone)}\n\n{columns(in_turns)}"
        f"{busy * ((record['busy'] or 0) > BUSY)}"
    )
