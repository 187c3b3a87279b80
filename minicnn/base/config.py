"""A run's settings: typed, read from TOML recipes, overridden by --set.

Every field can be set from a recipe file and from the command line by its dotted name,
such as `solver.lr`. Unknown names and values of the wrong kind are refused.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from minicnn.base.errors import MinicnnError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).with_name("recipes")


@dataclass(frozen=True)
class NetworkConfig:
    """What is trained.

    Attributes:
        arch: name of an architecture, or a path that ends in .toml.
        outputs: features of the last layer; 0 takes the number of the task's classes.
        precision: what it computes with: fp32, tf32x3, tf32, bf16 or fp64.
    """

    arch: str = "caffenet32"
    outputs: int = 0
    precision: str = "fp32"


@dataclass(frozen=True)
class LayerRates:
    """What rate and decay of a layer's tensors are multiplied by."""

    lr_mult: float = 1.0
    decay_mult: float = 1.0


@dataclass(frozen=True)
class SolverConfig:
    """How weights are updated.

    Attributes:
        lr: base learning rate.
        gamma, step_size: the rate is multiplied by gamma every step_size updates.
        momentum, decay: of the velocity, and of the weights.
        batch: images an update.
        iterations: updates in all.
        layers: by a layer's name, such as "conv1"; biases keep their double rate.
    """

    lr: float = 0.01
    gamma: float = 0.1
    step_size: int = 0
    momentum: float = 0.9
    decay: float = 0.0005
    batch: int = 64
    iterations: int = 1000
    layers: dict[str, LayerRates] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class DataConfig:
    """Which images are trained on.

    Attributes:
        mirror: whether training images are mirrored at random.
        images_per_class: training images kept of each class; 0 keeps all.
    """

    mirror: bool = True
    images_per_class: int = 0


@dataclass(frozen=True)
class ScheduleConfig:
    """How often a run is evaluated, saved and logged.

    Attributes:
        evaluate_every: updates between evaluations on the validation part.
        checkpoint_every: updates between checkpoints.
        log_every: updates whose mean loss makes one training line of the metrics.
    """

    evaluate_every: int = 200
    checkpoint_every: int = 200
    log_every: int = 20


@dataclass(frozen=True)
class Config:
    """All that decides a run's numbers, beside store, split and treatment."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Sections of plain values, as TOML has them."""
        sections = dataclasses.asdict(self)
        if not self.solver.layers:
            del sections["solver"]["layers"]
        return sections


# Counts that are at least 1; all other numbers may be 0.
_COUNTS = {f"schedule.{each}" for each in vars(ScheduleConfig())}
_COUNTS |= {"solver.batch", "solver.iterations"}
# A velocity that loses nothing grows without end; a decay of all leaves no weight.
_SHARES = {"solver.momentum", "solver.decay"}


def checked(name: str, value: Any, kind: type, where: str) -> Any:
    """A value of the field's kind; whole numbers serve as floats."""
    if kind is float and type(value) is int:
        value = float(value)
    wanted = ""
    if type(value) is not kind:
        wanted = f"of type {kind.__name__}"
    elif isinstance(value, int | float):
        if not math.isfinite(value):
            wanted = "a finite number"
        elif value < (least := int(name in _COUNTS)):
            wanted = f"at least {least}"
        elif value >= 1 and name in _SHARES:
            wanted = "below 1"
    if wanted:
        raise MinicnnError(f"{where}: {name} = {value!r} must be {wanted}")
    return value


def _rates(
    layers: Any, base: Mapping[str, LayerRates], where: str
) -> dict[str, LayerRates]:
    """The section solver.layers; what is not named keeps `base`'s value."""
    taken, known = dict(base), vars(LayerRates())
    for layer, values in layers.items() if isinstance(layers, Mapping) else [("", 0)]:
        if not isinstance(values, Mapping) or not values.keys() <= known.keys():
            raise MinicnnError(
                f"{where}: write solver.layers.LAYER.KEY = number, KEY one of "
                f"{', '.join(known)}"
            )
        rates = dict(vars(taken.get(layer, LayerRates())))
        for key, value in values.items():
            rates[key] = checked(f"solver.layers.{layer}.{key}", value, float, where)
        taken[layer] = LayerRates(**rates)
    return taken


def from_dict(
    sections: Mapping[str, Any], where: str, base: Config | None = None
) -> Config:
    """A configuration from nested sections; what is not named keeps `base`'s value.

    Args:
        where: what the values come from, for the errors.

    Raises:
        MinicnnError: an unknown section or key, or a value of the wrong kind.
    """
    base = base or Config()
    known = dict(vars(base))
    for section, values in sections.items():
        if section not in known:
            raise MinicnnError(
                f"{where}: unknown section {section!r}; known: {', '.join(known)}"
            )
        if not isinstance(values, Mapping):
            raise MinicnnError(f"{where}: {section} must be a section of values")
        kinds = get_type_hints(type(known[section]))
        changed = {}
        for key, value in values.items():
            if key not in kinds:
                raise MinicnnError(
                    f"{where}: unknown key {section}.{key}; known in {section}: "
                    f"{', '.join(kinds)}"
                )
            if key == "layers":
                changed[key] = _rates(value, base.solver.layers, where)
            else:
                changed[key] = checked(f"{section}.{key}", value, kinds[key], where)
        known[section] = dataclasses.replace(known[section], **changed)
    return Config(**known)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's content; raises MinicnnError if it cannot be read or is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MinicnnError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MinicnnError(f"{path}: not valid TOML: {error}") from None


def load_recipe(name: str) -> Config:
    """The configuration of a built-in recipe, or of a TOML file.

    Args:
        name: a built-in name such as "paper", or a path that ends in .toml.

    Raises:
        MinicnnError: there is no such recipe, or it is malformed.
    """
    if name.endswith(".toml"):
        return from_dict(read_toml(Path(name)), name)
    names = sorted(each.stem for each in RECIPES.glob("*.toml"))
    if name not in names:
        raise MinicnnError(
            f"--recipe {name}: unknown; built in are {', '.join(names)}, or give a "
            "path that ends in .toml"
        )
    return from_dict(read_toml(RECIPES / f"{name}.toml"), f"recipe {name}")


def override(config: Config, assignments: list[str]) -> Config:
    """The configuration with `section.key=value` texts applied in order.

    Raises:
        MinicnnError: a text is not of that form, or names what does not exist.
    """
    for text in assignments:
        name, equals, value = text.partition("=")
        keys = name.strip().split(".")
        if not equals or len(keys) < 2 or not all(keys):
            raise MinicnnError(f"--set {text}: write it as section.key=value")
        try:
            parsed: Any = tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            parsed = value.strip()
        for key in reversed(keys):
            parsed = {key: parsed}
        config = from_dict(parsed, f"--set {text}", config)
    return config
