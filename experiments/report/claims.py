"""The paper's claims, each as a number with an interval, and whether it is borne out.

Every quantity is the mean over units of a measure of the unit's own curve: accuracy
minus the base's of the same split, seed and target, against n. A claim that compares
two kinds of nets takes the difference within the units that have both, and where there
is none, between the two sets of units. Only units count that have every depth which any
of them has, so that no mean is over other depths than the one beside it.

Units of one split and seed are not quite independent, since the transfer nets of target
A copy from the base of target B and the other way round; nor are units of one seed and
target, whose nets of one name draw the same initial weights and random filters. The
intervals leave that out.

Two thresholds, in parts of what the base has learnt: "hardly below the base" is 2.5 %,
between the published drops that the paper calls slight (n = 3: 1.0 %) and significant
(n = 4: 4.1 %); random features that keep less than half "fell off".

Source: Yosinski, Clune, Bengio, Lipson, NIPS 2014, sections 4.1 to 4.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from minicnn.experiments.report import intervals
from minicnn.experiments.report.curves import SIMILAR, Unit, by_unit, of_family
from minicnn.experiments.report.intervals import LEAST, Interval
from minicnn.experiments.study import records
from minicnn.experiments.study.records import Net

SUPPORTED = "supported"
NOT_SUPPORTED = "not supported"
NOT_ENOUGH = "not enough runs"
LEARNT = 1e-9
"""Accuracy above chance that is mere rounding: the base has learnt nothing."""

Curve = dict[int, float]
Nets = tuple[str, str | None]
Ranges = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and the number that decides it, a row of claims.csv.

    Attributes:
        number: such as "6"; with a letter where a claim has several quantities.
        formula: the quantity, in words.
        nets: kind and family of splits (None: any) whose curves are measured.
        against: those whose measure is subtracted; None for none.
        ranges: depths of the measure; a unit needs at least one of each.
        measure: "mean", "last_minus_first" or "slope".
        relative: whether the curve is in parts of what the base has learnt, not in
            points of accuracy; units whose base has learnt nothing do not count.
        above: whether the claim says "more than threshold", else "less than".
        threshold: in the quantity's own unit, as a fraction.
    """

    number: str
    title: str
    text: str
    formula: str
    nets: Nets
    against: Nets | None
    ranges: Ranges
    measure: str
    relative: bool
    above: bool
    threshold: float

    @property
    def unit(self) -> str:
        """What its numbers are in."""
        learnt = "% of the base's accuracy above chance"
        return learnt if self.relative else "points of accuracy"


@dataclass(frozen=True)
class Finding:
    """What some nets say of a claim.

    Attributes:
        estimate: its quantity and interval, as fractions; None without any unit.
        units: how many it is the mean of; of both sides where two are compared.
        depths: which depths it is over.
        verdict: SUPPORTED, NOT_SUPPORTED or NOT_ENOUGH, for the reason `why`.
    """

    claim: Claim
    estimate: Interval | None
    units: tuple[int, ...]
    depths: tuple[int, ...]
    verdict: str
    why: str


def _nets(cell: str) -> Nets:
    """Kind and family of a cell of the file, "any" where all families count."""
    kind, family = cell.split()
    return kind, None if family == "any" else family


def _claim(row: dict[str, str]) -> Claim:
    ranges = (tuple(map(int, each.split())) for each in row["depths"].split("|"))
    return Claim(
        number=row["number"],
        title=row["title"],
        text=row["text"],
        formula=row["quantity"],
        nets=_nets(row["nets"]),
        against=_nets(row["against"]) if row["against"] else None,
        ranges=tuple(ranges),
        measure=row["measure"],
        relative=row["relative"] == "yes",
        above=row["side"] == "above",
        threshold=float(row["threshold"]),
    )


CLAIMS = tuple(map(_claim, records.published_rows("claims.csv")))


def measure(claim: Claim, curve: Curve) -> float:
    """The claim's measure of one curve.

    The mean over all depths alike; the mean over the last range minus that over the
    first; or the slope of the least-squares line, per layer.
    """
    if claim.measure == "mean":
        return fmean(curve.values())
    if claim.measure == "last_minus_first":
        means = [fmean(curve[n] for n in r if n in curve) for r in claim.ranges]
        return means[-1] - means[0]
    centre, middle = fmean(curve), fmean(curve.values())
    above = sum((n - centre) * (score - middle) for n, score in curve.items())
    return above / sum((n - centre) ** 2 for n in curve)


def _curves(claim: Claim, nets: Nets, units: list[Unit]) -> dict[int, Curve]:
    """Each unit's curve over the claim's depths, by the unit's place in `units`."""
    depths = {n for each in claim.ranges for n in each}
    (kind, family), found = nets, {}
    for place, unit in enumerate(units):
        drops = unit.drops(kind) if of_family([unit], family) else {}
        scale = unit.above_chance if claim.relative and drops else 1.0
        curve = {n: drop / scale for n, drop in drops.items() if n in depths and scale}
        if curve and scale >= LEARNT:
            found[place] = curve
    return found


def _estimate(sides: list[dict[int, float]]) -> Interval:
    """The mean of one side, or of what the first is more than the second."""
    left, right = sides[0], sides[-1]
    if len(sides) == 1:
        return intervals.of_mean(list(left.values()))
    if left.keys() == right.keys():
        return intervals.of_mean([left[place] - right[place] for place in left])
    return intervals.of_difference(list(left.values()), list(right.values()))


def find(claim: Claim, units: list[Unit]) -> Finding:
    """What these units say of a claim."""
    pair = [claim.nets] + ([claim.against] if claim.against else [])
    sides = [_curves(claim, nets, units) for nets in pair]
    # Within units where that can be: what else tells them apart then cancels.
    shared = sides[0].keys() & sides[-1].keys()
    if shared:
        sides = [{place: side[place] for place in sorted(shared)} for side in sides]
    depths = tuple(sorted({n for side in sides for c in side.values() for n in c}))
    enough = all(any(n in depths for n in each) for each in claim.ranges)
    measured = [
        {p: measure(claim, c) for p, c in side.items() if enough and tuple(c) == depths}
        for side in sides
    ]
    if shared:
        both = [p for p in measured[0] if all(p in side for side in measured)]
        measured = [{place: side[place] for place in both} for side in measured]
    counts = tuple(len(side) for side in measured)
    if not all(counts):
        why = "no unit has enough depths" if all(sides) else "no such nets"
        why += " with a base above chance" * (claim.relative and not all(sides))
        return Finding(claim, None, counts, depths, NOT_ENOUGH, why)
    counts = counts[:1] if measured[0].keys() == measured[-1].keys() else counts
    estimate = _estimate(measured)
    return Finding(claim, estimate, counts, depths, *_judge(claim, estimate))


def _judge(claim: Claim, found: Interval) -> tuple[str, str]:
    """The verdict on an estimate, and why."""
    if found.low is None or found.high is None:
        return NOT_ENOUGH, f"at least {LEAST} units are needed"
    limit = f"{100 * claim.threshold:.1f} %".replace("-", "−")
    limit = limit if claim.threshold else "0"
    beyond = (found.low > claim.threshold, found.high < claim.threshold)
    borne_out, opposite = beyond if claim.above else beyond[::-1]
    if borne_out:
        side = "above" if claim.above else "below"
        return SUPPORTED, f"the interval lies {side} {limit}"
    if opposite:
        return NOT_SUPPORTED, "the opposite is true here, by the whole interval"
    return NOT_SUPPORTED, f"the interval contains {limit}"


def find_all(nets: Iterable[Net], score: str) -> list[Finding]:
    """What these nets say of each claim, in order, by the "final" or "best10" score."""
    units = by_unit(nets, score)
    return [find(claim, units) for claim in CLAIMS]


def unpaired_boost(nets: Iterable[Net], score: str, least: int) -> float | None:
    """The paper's own figure for claim 6, its table 1.

    The mean of all fine-tuned transfer nets with n ≥ least minus the mean of all bases,
    whichever split and target they belong to; None where either is missing.
    """
    similar = of_family(by_unit(nets, score), SIMILAR)
    bases = [unit.base for unit in similar if unit.base is not None]
    curves = [unit.scores.get(("transfer+", 0), {}) for unit in similar]
    tuned = [top1 for each in curves for n, top1 in each.items() if n >= least]
    return fmean(tuned) - fmean(bases) if tuned and bases else None
