"""A run's settings: typed, read from TOML recipes, overridden by --set, written back.

Every field can be set from a recipe file and from the command line by its dotted name,
such as `solver.lr`. Unknown names and values of the wrong kind are refused.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
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
    """Attributes:
    lr_mult, decay_mult: what rate and decay of a layer's tensors are multiplied by.
    """

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


_LEAST = {
    "solver.batch": 1,
    "solver.iterations": 1,
    "schedule.evaluate_every": 1,
    "schedule.checkpoint_every": 1,
    "schedule.log_every": 1,
}
# A velocity that loses nothing grows without end; a decay of all leaves no weight.
_BELOW = {"solver.momentum": 1, "solver.decay": 1}


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
        elif value < (least := _LEAST.get(name, 0)):
            wanted = f"at least {least}"
        elif value >= (most := _BELOW.get(name, math.inf)):
            wanted = f"below {most}"
    if wanted:
        raise MinicnnError(f"{where}: {name} = {value!r} must be {wanted}")
    return value


def _rates(
    layers: Any, base: Mapping[str, LayerRates], where: str
) -> dict[str, LayerRates]:
    """The section solver.layers; what is not named keeps `base`'s value."""
    taken, known = dict(base), [each.name for each in dataclasses.fields(LayerRates)]
    for layer, values in layers.items() if isinstance(layers, Mapping) else [("", 0)]:
        if not isinstance(values, Mapping) or not values.keys() <= set(known):
            raise MinicnnError(
                f"{where}: write solver.layers.LAYER.KEY = number, KEY one of "
                f"{', '.join(known)}"
            )
        name = f"solver.layers.{layer}"
        numbers = {
            k: checked(f"{name}.{k}", v, float, where) for k, v in values.items()
        }
        taken[layer] = dataclasses.replace(taken.get(layer, LayerRates()), **numbers)
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
    known = {each.name: getattr(base, each.name) for each in dataclasses.fields(base)}
    changed = {}
    for section, values in sections.items():
        if section not in known:
            raise MinicnnError(
                f"{where}: unknown section {section!r}; known: {', '.join(known)}"
            )
        if not isinstance(values, Mapping):
            raise MinicnnError(f"{where}: {section} must be a section of values")
        kinds = get_type_hints(type(known[section]))
        for key in values:
            if key not in kinds:
                raise MinicnnError(
                    f"{where}: unknown key {section}.{key}; known in {section}: "
                    f"{', '.join(kinds)}"
                )
        values_of = {
            key: _rates(value, known[section].layers, where)
            if (section, key) == ("solver", "layers")
            else checked(f"{section}.{key}", value, kinds[key], where)
            for key, value in values.items()
        }
        changed[section] = dataclasses.replace(known[section], **values_of)
    return dataclasses.replace(base, **changed)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's content.

    Raises:
        MinicnnError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MinicnnError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MinicnnError(f"{path}: not valid TOML: {error}") from None


def to_toml(sections: Mapping[str, Any], place: str = "") -> str:
    """Nested sections as TOML, in their order, single values before sections.

    Args:
        sections: of texts, finite numbers, truth values, lists of these, more sections,
            and lists of sections.
        place: dotted name of the section that these belong to, with its dot.
    """

    def written(value: Any) -> str:  # JSON writes such values the same way
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

    def named(key: str) -> str:
        return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else written(key)

    values, below = [], []
    for key, value in sections.items():
        name, listed = place + named(key), isinstance(value, list)
        if isinstance(value, Mapping):
            below.append(f"\n[{name}]\n{to_toml(value, name + '.')}")
        elif listed and value and isinstance(value[0], Mapping):
            tables = (to_toml(each, name + ".") for each in value)
            below += [f"\n[[{name}]]\n{table}" for table in tables]
        else:
            values.append(f"{named(key)} = {written(value)}\n")
    text = "".join([*values, *below])
    return text if place else text.lstrip("\n")


def recipe_names() -> list[str]:
    """The built-in recipes."""
    return sorted(each.stem for each in RECIPES.glob("*.toml"))


def load_recipe(name: str) -> Config:
    """The configuration of a built-in recipe, or of a TOML file.

    Args:
        name: a built-in name such as "paper", or a path that ends in .toml.

    Raises:
        MinicnnError: there is no such recipe, or it is malformed.
    """
    if name.endswith(".toml"):
        return from_dict(read_toml(Path(name)), name)
    if name not in recipe_names():
        raise MinicnnError(
            f"--recipe {name}: unknown; built in are {', '.join(recipe_names())}, or "
            "give a path that ends in .toml"
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
