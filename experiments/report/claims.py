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

Source: Yosinski, Clune, Bengio, Lipson, NIPS 2014, sections 4.1 to 4.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean

from minicnn.experiments.report.intervals import (
    LEAST,
    Interval,
    of_difference,
    of_mean,
)
from minicnn.experiments.report.units import DISSIMILAR, SIMILAR, Unit, units
from minicnn.experiments.study.records import Net

SUPPORTED = "supported"
NOT_SUPPORTED = "not supported"
NOT_ENOUGH = "not enough runs"

# What still counts as "hardly below the base", in parts of what the base has learnt:
# between the published drops that the paper calls slight (n = 3: 1.0 %) and significant
# (n = 4: 4.1 %).
HARDLY = 0.025
# Random features that keep less than this part of what the base has learnt fell off.
HALF = 0.5
# A base that is above chance by less has learnt nothing: this is rounding.
LEARNT = 1e-9

Curve = dict[int, float]
LOW, MIDDLE, HIGH = (1, 2), (3, 4, 5), (6, 7)
UPPER = (5, 6, 7)
EVERY = (*LOW, *MIDDLE, *HIGH)


@dataclass(frozen=True)
class Nets:
    """Some nets: of a kind, in a family of splits (None: in any)."""

    kind: str
    family: str | None


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and the number that decides it.

    Attributes:
        number: such as "6"; with a letter where a claim has several quantities.
        title: the claim, in a few words.
        text: what it says.
        formula: the quantity, in words.
        nets: whose curves are measured.
        against: whose measure is subtracted; None for none.
        ranges: depths of the measure; a unit needs at least one of each.
        measure: of one curve; takes the curve and `ranges`.
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
    ranges: tuple[tuple[int, ...], ...]
    measure: Callable[[Curve, tuple[tuple[int, ...], ...]], float]
    above: bool
    against: Nets | None = None
    relative: bool = False
    threshold: float = 0.0


@dataclass(frozen=True)
class Finding:
    """What some nets say of a claim.

    Attributes:
        claim: which one.
        estimate: its quantity and interval, as fractions; None without any unit.
        units: how many it is the mean of; of both sides where two are compared.
        depths: which depths it is over.
        verdict: SUPPORTED, NOT_SUPPORTED or NOT_ENOUGH.
        why: the reason, in a few words.
    """

    claim: Claim
    estimate: Interval | None
    units: tuple[int, ...]
    depths: tuple[int, ...]
    verdict: str
    why: str


def _over(curve: Curve, depths: Iterable[int]) -> float:
    return fmean(curve[n] for n in depths if n in curve)


def mean(curve: Curve, ranges: tuple[tuple[int, ...], ...]) -> float:
    """Over all depths of the ranges alike."""
    return _over(curve, [n for each in ranges for n in each])


def last_minus_first(curve: Curve, ranges: tuple[tuple[int, ...], ...]) -> float:
    """The mean over the last range minus that over the first."""
    return _over(curve, ranges[-1]) - _over(curve, ranges[0])


def slope(curve: Curve, ranges: tuple[tuple[int, ...], ...]) -> float:
    """Of the least-squares line through the curve, per layer."""
    centre, middle = fmean(curve), fmean(curve.values())
    above = sum((n - centre) * (score - middle) for n, score in curve.items())
    return above / sum((n - centre) ** 2 for n in curve)


CLAIMS = (
    Claim(
        "1",
        "The first layers are general",
        "copied to another task, layers 1 and 2 do hardly worse than the task's own",
        "transfer minus base, mean of n = 1, 2, as part of the base's accuracy above "
        "chance; hardly worse: by less than 2.5 %",
        Nets("transfer", SIMILAR),
        (LOW,),
        mean,
        above=True,
        relative=True,
        threshold=-HARDLY,
    ),
    Claim(
        "2",
        "Selffer nets drop in the middle",
        "neighbouring layers are co-adapted: the upper cannot be learnt again alone",
        "selffer minus base, mean of n = 3, 4, 5",
        Nets("selffer", SIMILAR),
        (MIDDLE,),
        mean,
        above=False,
    ),
    Claim(
        "3",
        "Selffer nets recover at layers 6 and 7",
        "little is left above them to learn again",
        "selffer, mean of n = 6, 7 minus mean of n = 3, 4, 5",
        Nets("selffer", SIMILAR),
        (MIDDLE, HIGH),
        last_minus_first,
        above=True,
    ),
    Claim(
        "4",
        "Transfer loses more the deeper it is",
        "with every further frozen layer features are more specific to their own task",
        "transfer minus base, slope of the least-squares line over n, per layer",
        Nets("transfer", SIMILAR),
        (LOW, MIDDLE, HIGH),
        slope,
        above=False,
    ),
    Claim(
        "5",
        "Fine-tuned selffer nets recover",
        "with the copied layers trained on, they do hardly worse than the base",
        "fine-tuned selffer minus base, mean over n, as part of the base's accuracy "
        "above chance; hardly worse: by less than 2.5 %",
        Nets("selffer+", SIMILAR),
        (EVERY,),
        mean,
        above=True,
        relative=True,
        threshold=-HARDLY,
    ),
    Claim(
        "6a",
        "Fine-tuned transfer beats the base",
        "what was learnt on another task helps, even after long training on this one",
        "fine-tuned transfer minus base, mean over n",
        Nets("transfer+", SIMILAR),
        (EVERY,),
        mean,
        above=True,
    ),
    Claim(
        "6b",
        "… most where most was copied",
        "the same, for n ≥ 5",
        "fine-tuned transfer minus base, mean of n = 5, 6, 7",
        Nets("transfer+", SIMILAR),
        (UPPER,),
        mean,
        above=True,
    ),
    Claim(
        "7",
        "Dissimilar tasks transfer worse",
        "between natural and man-made classes more is lost than between similar tasks",
        "transfer minus base, mean over n: natural/man-made minus similar tasks",
        Nets("transfer", DISSIMILAR),
        (EVERY,),
        mean,
        above=False,
        against=Nets("transfer", SIMILAR),
    ),
    Claim(
        "8",
        "… the more so in higher layers",
        "the gap between dissimilar and similar tasks grows with n",
        "transfer minus base, mean of n = 5, 6, 7 minus mean of n = 1, 2: "
        "natural/man-made minus similar tasks",
        Nets("transfer", DISSIMILAR),
        (LOW, UPPER),
        last_minus_first,
        above=False,
        against=Nets("transfer", SIMILAR),
    ),
    Claim(
        "9",
        "Transferred features beat random ones",
        "even those of a dissimilar task",
        "accuracy minus base, mean over n: transfer on natural/man-made minus random "
        "filters",
        Nets("transfer", DISSIMILAR),
        (EVERY,),
        mean,
        above=True,
        against=Nets("random", None),
    ),
    Claim(
        "10",
        "Random features fall off quickly",
        "from layer 3 on, most of what a base learns is lost",
        "random filters minus base, mean of n = 3 … 7, as part of the base's accuracy "
        "above chance; fallen off: by more than half",
        Nets("random", None),
        (MIDDLE, HIGH),
        mean,
        above=False,
        relative=True,
        threshold=-HALF,
    ),
)


def _curves(claim: Claim, nets: Nets, given: list[Unit]) -> dict[int, Curve]:
    """Each unit's curve over the claim's depths, by the unit's place in `given`."""
    depths = {n for each in claim.ranges for n in each}
    found = {}
    for place, unit in enumerate(given):
        if nets.family not in (None, unit.family):
            continue
        drops = unit.drops(nets.kind)
        scale = unit.above_chance if claim.relative and drops else 1.0
        if scale < LEARNT:
            continue  # of nothing there are no parts
        curve = {n: drop / scale for n, drop in drops.items() if n in depths}
        if curve:
            found[place] = curve
    return found


def _measured(claim: Claim, sides: list[dict[int, Curve]]) -> list[dict[int, float]]:
    """The measure of each unit that has all the depths which any of them has."""
    depths = _depths(sides)
    if not all(any(n in depths for n in each) for each in claim.ranges):
        return [{} for _ in sides]
    return [
        {
            place: claim.measure(curve, claim.ranges)
            for place, curve in side.items()
            if tuple(curve) == depths
        }
        for side in sides
    ]


def _depths(sides: list[dict[int, Curve]]) -> tuple[int, ...]:
    found = {n for side in sides for curve in side.values() for n in curve}
    return tuple(sorted(found))


def _estimate(sides: list[dict[int, float]]) -> Interval:
    """The mean of one side, or of what the first is more than the second."""
    if len(sides) == 1:
        return of_mean(list(sides[0].values()))
    left, right = sides
    if left.keys() == right.keys():
        return of_mean([left[place] - right[place] for place in left])
    return of_difference(list(left.values()), list(right.values()))


def find(claim: Claim, given: list[Unit]) -> Finding:
    """What these units say of a claim."""
    sides = [_curves(claim, claim.nets, given)]
    if claim.against:
        sides.append(_curves(claim, claim.against, given))
        # Within units where that can be: what else tells them apart then cancels.
        shared = sides[0].keys() & sides[1].keys()
        if shared:
            sides = [{place: side[place] for place in sorted(shared)} for side in sides]
    measured = _measured(claim, sides)
    if claim.against and shared:
        both = sorted(measured[0].keys() & measured[1].keys())
        measured = [{place: side[place] for place in both} for side in measured]
    counts = tuple(len(side) for side in measured)
    depths = _depths(sides)
    if not all(counts):
        why = "no unit has enough depths" if all(sides) else "no such nets"
        if claim.relative and not all(sides):
            why += " with a base above chance"
        return Finding(claim, None, counts, depths, NOT_ENOUGH, why)
    if claim.against and measured[0].keys() == measured[1].keys():
        counts = counts[:1]
    estimate = _estimate(measured)
    if estimate.low is None or estimate.high is None:
        why = f"at least {LEAST} units are needed"
        return Finding(claim, estimate, counts, depths, NOT_ENOUGH, why)
    verdict, why = _judge(claim, estimate.low, estimate.high)
    return Finding(claim, estimate, counts, depths, verdict, why)


def _judge(claim: Claim, low: float, high: float) -> tuple[str, str]:
    """The verdict on an interval, and why."""
    limit = f"{100 * claim.threshold:.1f} %".replace("-", "−")
    limit = limit if claim.threshold else "0"
    beyond = (low > claim.threshold, high < claim.threshold)
    borne_out, opposite = beyond if claim.above else beyond[::-1]
    if borne_out:
        side = "above" if claim.above else "below"
        return SUPPORTED, f"the interval lies {side} {limit}"
    if opposite:
        return NOT_SUPPORTED, "the opposite is true here, by the whole interval"
    return NOT_SUPPORTED, f"the interval contains {limit}"


def find_all(nets: Iterable[Net], score: str) -> list[Finding]:
    """What these nets say of each claim, in the claims' order.

    Args:
        nets: of a study, or the published.
        score: "final" or "best10".
    """
    given = units(nets, score)
    return [find(claim, given) for claim in CLAIMS]


def unpaired_boost(nets: Iterable[Net], score: str, least: int) -> float | None:
    """The paper's own figure for claim 6, its table 1.

    The mean of all fine-tuned transfer nets with n ≥ least minus the mean of all bases,
    whichever split and target they belong to; None where either is missing.
    """
    similar = [unit for unit in units(nets, score) if unit.family == SIMILAR]
    bases = [unit.base for unit in similar if unit.base is not None]
    tuned = [
        accuracy
        for unit in similar
        for n, accuracy in unit.scores.get(("transfer+", 0), {}).items()
        if n >= least
    ]
    return fmean(tuned) - fmean(bases) if tuned and bases else None
