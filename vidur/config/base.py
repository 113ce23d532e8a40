"""What every configuration class shares: typed settings with a help text and limits, checked when one is made."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import types
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from vidur.errors import InputError, known_name, unknown_name

C = TypeVar("C", bound="Config")
_SETTINGS: dict[type[Any], tuple[Setting, ...]] = {}  # by class: type hints are slow to resolve
LARGEST_INTEGER = 2**63 - 1
KIND_NAMES = {int: "an integer", float: "a number", str: "text", bool: "true or false", dict: "keys and values"}


def setting(default: Any = dataclasses.MISSING, *, help: str, **limits: Any) -> Any:
    """A field of a configuration class. `limits`: minimum, above, maximum, below (numbers), choices (names)."""
    return dataclasses.field(default=default, metadata={"help": help, **limits})


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of a configuration class, its type taken apart: `type`, `optional` (None allowed), `many` (a tuple)."""

    name: str
    type: type[Any]
    many: bool
    optional: bool
    default: Any
    metadata: Mapping[str, Any]

    @property
    def help(self) -> str:
        return str(self.metadata["help"])

    @property
    def is_part(self) -> bool:
        """Whether the field holds another configuration, with flags of its own."""
        return not self.many and issubclass(self.type, Config)

    @property
    def is_records(self) -> bool:
        """Whether the field holds a list of small configurations, all given by one flag."""
        return self.many and issubclass(self.type, Config)

    @property
    def type_name(self) -> str:
        name = KIND_NAMES.get(self.type, self.type.__name__)
        return f"a list, each {name}" if self.many else name


class Config:
    """Base of the configuration dataclasses, all frozen. Making one conforms and checks every field."""

    flag_prefix: ClassVar[str | None] = None  # where it is not the class's name in snake case
    flag_separator: ClassVar[str] = "_"
    help_title: ClassVar[str] = ""  # of the class's part of --help
    help_description: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for item in settings_of(type(self)):
            value = conform(item, getattr(self, item.name), self.flag(item.name))
            check_limits(item, value, self.flag(item.name))
            object.__setattr__(self, item.name, value)
        self.check()

    def check(self) -> None:
        """Raise InputError where fields contradict one another."""

    @classmethod
    def named(cls: type[C], name_of: Callable[[str], str], **values: Any) -> C:
        """One of these values; errors call a setting what `name_of` calls it, in place of its flag."""
        try:
            return cls(**values)
        except InputError as error:
            text = str(error)
            for item in settings_of(cls):
                called = name_of(item.name).replace("\\", r"\\")
                text = re.sub(rf"{re.escape(cls.flag(item.name))}\b", called, text)
            raise InputError(text) from None

    @classmethod
    def flag(cls, name: str) -> str:
        """The command line's name of a field, with its dashes."""
        prefix = snake_case(cls.__name__) if cls.flag_prefix is None else cls.flag_prefix
        return f"--{prefix}{cls.flag_separator}{name}" if prefix else f"--{name}"


class PolyConfig(Config):
    """Base of a family of configurations, one of which is chosen by its type name."""

    type_name: ClassVar[str]
    type_aliases: ClassVar[tuple[str, ...]] = ()
    type_flag: ClassVar[str]  # set by the family's base, e.g. replica_scheduler_config_type
    description: ClassVar[str]  # one line for --help
    family: ClassVar[dict[str, type[PolyConfig]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "type_flag" in cls.__dict__:
            cls.family = {}
        if "type_name" in cls.__dict__:
            if cls.type_name in cls.family:
                raise ValueError(f"--{cls.type_flag} '{cls.type_name}' is registered twice")
            cls.family[cls.type_name] = cls

    @classmethod
    def get_type(cls) -> str:
        return cls.type_name

    @classmethod
    def type_names(cls) -> list[str]:
        return list(cls.family)

    @classmethod
    def from_type(cls, name: str, where: str | None = None) -> type[PolyConfig]:
        """The family's class of that type name or alias. Raises InputError with the nearest valid names."""
        names = {alias: member for member in cls.family.values() for alias in (member.type_name, *member.type_aliases)}
        if (known := known_name(name, names)) is not None:
            return names[known]
        raise unknown_name(where or f"--{cls.type_flag}", name, cls.family)


def snake_case(name: str) -> str:
    """`LORGlobalSchedulerConfig` -> `lor_global_scheduler_config`: upstream's rule, but an acronym stays whole."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def settings_of(cls: type[Any]) -> tuple[Setting, ...]:
    """The fields of a configuration class, in order."""
    if cls not in _SETTINGS:
        hints = get_type_hints(cls)
        _SETTINGS[cls] = tuple(_setting_of(field, hints[field.name]) for field in dataclasses.fields(cls))
    return _SETTINGS[cls]


def _setting_of(field: dataclasses.Field[Any], hint: Any) -> Setting:
    optional = many = False
    if get_origin(hint) in (Union, types.UnionType):
        optional = True
        hint = next(argument for argument in get_args(hint) if argument is not type(None))
    if get_origin(hint) is tuple:
        many = True
        hint = get_args(hint)[0]
    hint = get_origin(hint) or hint  # dict of dict[str, Any]
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory
    return Setting(field.name, hint, many, optional, default, field.metadata)


def conform(item: Setting, value: Any, where: str) -> Any:
    """`value` in the field's own type: an integer becomes a float where a number is asked, a list a tuple.

    Raises InputError, naming `where`, if it is of another type or not finite.
    """
    if value is None and item.optional:
        return None
    if not item.many:
        value = conform_one(item.type, value, where, item.type_name)
        # Capitals do not matter where no two names differ in them alone.
        return (known_name(value, item.metadata["choices"]) or value) if "choices" in item.metadata else value
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{where}: expected {item.type_name}, not {value!r}")
    return tuple(conform_one(item.type, element, where, item.type_name) for element in value)


def conform_one(kind: type[Any], value: Any, where: str, expected: str) -> Any:
    if kind in (int, float) and isinstance(value, Integral) and abs(int(value)) > LARGEST_INTEGER:
        raise InputError(f"{where}: {str(value)[:9]}... does not fit in 64 bits")
    if kind is float and isinstance(value, Real) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise InputError(f"{where}: expected a finite number, not {value}")
        return float(value)
    if kind is int and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind not in (int, float) and isinstance(value, kind):
        return value
    raise InputError(f"{where}: expected {expected}, not {value!r}")


def check_limits(item: Setting, value: Any, where: str) -> None:
    """Raise InputError if a value, or an element of a list, is beyond the limits that the field declares."""
    if value is None or not item.metadata.keys() & {"minimum", "above", "maximum", "below", "choices"}:
        return
    for element in value if item.many else (value,):
        limits = item.metadata
        if "choices" in limits and element not in limits["choices"]:
            raise unknown_name(where, element, limits["choices"])
        if "minimum" in limits and element < limits["minimum"]:
            raise InputError(f"{where} must be at least {limits['minimum']}, not {element}")
        if "above" in limits and element <= limits["above"]:
            raise InputError(f"{where} must be above {limits['above']}, not {element}")
        if "maximum" in limits and element > limits["maximum"]:
            raise InputError(f"{where} must be at most {limits['maximum']}, not {element}")
        if "below" in limits and element >= limits["below"]:
            raise InputError(f"{where} must be below {limits['below']}, not {element}")
