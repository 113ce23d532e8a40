"""The base of all configuration classes: typed settings with help texts and limits, checked on construction."""

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
    """Declare a field of a configuration class. `limits`: minimum, above, maximum, below (numbers), choices (names)."""
    return dataclasses.field(default=default, metadata={"help": help, **limits})


@dataclasses.dataclass(frozen=True)
class Setting:
    """A field of a configuration class, its type split into `type`, `optional` (None allowed) and `many` (a tuple)."""

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
        """Whether the field holds another configuration, which has its own flags."""
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
    """Base of the frozen configuration dataclasses. Construction converts and checks every field."""

    flag_prefix: ClassVar[str | None] = None  # the class's name in snake case if None
    flag_separator: ClassVar[str] = "_"
    help_title: ClassVar[str] = ""  # of the class's section of --help
    help_description: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for item in settings_of(type(self)):
            value = conform(item, getattr(self, item.name), self.flag(item.name))
            check_limits(item, value, self.flag(item.name))
            object.__setattr__(self, item.name, value)
        self.check()

    def check(self) -> None:
        """Raise InputError if fields contradict each other."""

    @classmethod
    def named(cls: type[C], name_of: Callable[[str], str], **values: Any) -> C:
        """Construct from `values`; errors name a setting by `name_of(setting)` instead of its flag."""
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
        """Return the flag of a field, with its dashes."""
        prefix = snake_case(cls.__name__) if cls.flag_prefix is None else cls.flag_prefix
        return f"--{prefix}{cls.flag_separator}{name}" if prefix else f"--{name}"


class PolyConfig(Config):
    """Base of a family of configurations; a type name chooses one of them."""

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
        """Return the class of a type name or alias. Raises InputError with the nearest valid names."""
        names = {alias: member for member in cls.family.values() for alias in (member.type_name, *member.type_aliases)}
        if (known := known_name(name, names)) is not None:
            return names[known]
        raise unknown_name(where or f"--{cls.type_flag}", name, cls.family)


def snake_case(name: str) -> str:
    """`LORGlobalSchedulerConfig` -> `lor_global_scheduler_config`: upstream's rule, but acronyms stay whole."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def settings_of(cls: type[Any]) -> tuple[Setting, ...]:
    """Return the fields of a configuration class, in order."""
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
    """Convert `value` to the field's type: an integer to a float, a list to a tuple.

    Raises InputError, naming `where`, if the type does not fit or the value is not finite.
    """
    if value is None and item.optional:
        return None
    if not item.many:
        value = conform_one(item.type, value, where, item.type_name)
        # Case is ignored in choices.
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
    """Raise InputError if a value, or an element of a list, violates the field's limits."""
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
