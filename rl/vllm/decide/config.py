"""The router's configuration, from flags and a YAML file: replicas, schedulers, guard rails."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rl.vllm.decide.fleet import HardwareGroupConfig, VllmReplicaConfig
from vidur.config import (
    BaseGlobalSchedulerConfig,
    CustomGlobalSchedulerConfig,
    LORGlobalSchedulerConfig,
    PPOGlobalSchedulerConfig,
    SizeSplitGlobalSchedulerConfig,
)
from vidur.config.base import Config, PolyConfig, Setting, setting, settings_of
from vidur.config.command_line import FlagParser, add_flag, read_flag
from vidur.config.document import read_value
from vidur.config.flag import Flag
from vidur.documents import load_document
from vidur.errors import InputError, unknown_name
from vidur.scheduler.routers import GLOBAL_SCHEDULERS

EXPLORATIONS = ("none", "epsilon", "sample")

# The settings of ppo that matter without training.
_SERVED = ("checkpoint", "beta", "sample", "max_queue_requests")


@dataclass(frozen=True)
class RouterConfig(Config):
    """The replicas, the schedulers and their guard rails."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "routing"
    help_description: ClassVar[str] = "the replicas, the schedulers and their guard rails"

    replicas: tuple[VllmReplicaConfig, ...] = setting(
        (), help="a vLLM server: its URL, or url=http://host:port,name=a,group=fast; repeat the flag for each"
    )
    groups: tuple[HardwareGroupConfig, ...] = setting(
        (), help="hardware of equal replicas: name=fast,prefill_seconds=6.6e-5,decode_seconds=0.0127,kv_tokens=475136"
    )
    scheduler: BaseGlobalSchedulerConfig = field(
        default_factory=PPOGlobalSchedulerConfig,
        metadata={"help": "any global scheduler of the simulator"},
    )
    shadow: BaseGlobalSchedulerConfig | None = field(
        default=None, metadata={"help": "a second scheduler, whose choices are only recorded"}
    )
    seed: int = setting(0, help="seed of all randomness in decisions", minimum=0, maximum=2**31)
    explore: str = setting(
        "none", choices=EXPLORATIONS,
        help="exploration for the decision log; epsilon: sometimes a random replica; sample: by the scores of ppo",
    )  # fmt: skip
    explore_fraction: float = setting(0.05, help="share of requests that epsilon explores", above=0, maximum=1)
    gauge_age_limit: float = setting(
        5.0, help="seconds; if a gauge that the scheduler reads is older, least_tokens decides", above=0
    )
    decision_limit_ms: float = setting(
        5.0, help="milliseconds; if a decision takes longer, least_tokens decides", above=0
    )
    feature_limit: float = setting(
        8.0, help="standard deviations from the training data of ppo, beyond which least_tokens decides", above=0
    )
    tokenizer: str | None = setting(None, help="tokenizer.json to count prompts; by default, estimate from characters")
    decision_log: str | None = setting(None, help="file for a JSON line per ended request")
    decision_log_bytes: int = setting(256 << 20, help="size at which the file is rotated", minimum=4096)
    decision_log_files: int = setting(8, help="rotated files to keep", minimum=1, maximum=1000)
    simulation: str | None = setting(
        None, help="for lookahead: a configuration of the simulator with these replicas, in this order"
    )

    def check(self) -> None:
        names = [replica.label for replica in self.replicas]
        urls = [replica.url for replica in self.replicas]
        for kind, values in (("name", names), ("url", urls), ("group", [group.name for group in self.groups])):
            for value in values:
                if values.count(value) > 1:
                    raise InputError(
                        f"--{'groups' if kind == 'group' else 'replica'}: the {kind} {value} is given twice"
                    )
        for replica in self.replicas:
            if replica.group is not None and replica.group not in [group.name for group in self.groups]:
                raise unknown_name(f"group of replica {replica.label}:", replica.group, [g.name for g in self.groups])
        for where, scheduler in (("--scheduler", self.scheduler), ("--shadow", self.shadow)):
            if scheduler is not None:
                _check_scheduler(where, scheduler, self.simulation)
        if self.explore == "sample" and not isinstance(self.scheduler, PPOGlobalSchedulerConfig):
            raise InputError(
                f"--explore sample needs the probabilities of ppo, and {self.scheduler.get_type()} has none: "
                f"use --explore epsilon"
            )


def _check_scheduler(where: str, config: BaseGlobalSchedulerConfig, simulation: str | None) -> None:
    """Raise InputError for a scheduler that cannot route to real replicas."""
    if isinstance(config, LORGlobalSchedulerConfig) and config.count == "waiting":
        raise InputError(
            f"{where} lor: count waiting needs undelayed queue lengths, which no router has: use outstanding"
        )
    if isinstance(config, SizeSplitGlobalSchedulerConfig) and not config.thresholds:
        raise InputError(f"{where} size_split: give {config.flag('thresholds')}: the workload is not known here")
    if isinstance(config, PPOGlobalSchedulerConfig) and config.mode != "evaluate":
        raise InputError(f"{where} ppo: {config.flag('mode')} {config.mode} only works in simulations: learn from the "
                         f"decision log (python -m rl.vllm.learn)")  # fmt: skip
    name = config.get_type()
    if name in GLOBAL_SCHEDULERS.names() and GLOBAL_SCHEDULERS.get(name).needs_index:
        raise InputError(f"{where} {name} needs an index of prefixes, which this router does not keep yet")
    if name == "lookahead" and simulation is None:
        raise InputError(f"{where} lookahead simulates the replicas: give --simulation FILE, which describes them")


def parse_router(
    prog: str,
    description: str,
    classes: Sequence[type[Config]] = (),
    argv: Sequence[str] | None = None,
) -> tuple[RouterConfig, list[Any]]:
    """Parse `argv` (by default the process's) into the router's configuration and one of each of `classes`.

    A flag is `--field`; options of schedulers have the simulator's flags (`--ppo_global_scheduler_config_beta 40`).
    `--config FILE` names a YAML file with the same names as keys: `replicas` and `groups` are lists, `scheduler` and
    `shadow` a name, or a mapping of `type` and options. Flags override the file. No two classes may share a field.
    Raises InputError, or SystemExit(0) after --help.
    """
    flags, options = _flags(classes), _option_flags()
    parser = _parser(prog, description, flags, options)
    values, extras = parser.parse_known_args(argv)
    if extras:
        names = ["replica" if name == "replicas" else name for name in ("config", *flags, *options)]
        near = difflib.get_close_matches(extras[0].lstrip("-").partition("=")[0], names, n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join('--' + name for name in near)}?" if near else "see --help"
        raise InputError(f"unknown argument {extras[0]}: {hint}")
    texts = vars(values)
    file = texts.pop("config", None)
    given = _read_file(Path(file), flags, options) if file is not None else {}
    chosen = {role: given.get(role, {}) for role in _SCHEDULERS}
    by_flag: dict[str, Any] = {}
    for name, text in texts.items():
        if name in _SCHEDULERS:
            # Keep the file's options for a scheduler of the same name.
            chosen[name] = chosen[name] if chosen[name].get("type") == text else {"type": text}
        elif name == "replicas":
            by_flag[name] = tuple(_read_replica(item) for item in text)
        else:
            by_flag[name] = read_flag(flags.get(name) or options[name], text)
    for role, named in chosen.items():
        if named or role == "scheduler":
            given[role] = _make_scheduler(role, named or {"type": "ppo"}, given, by_flag, options)
    given |= by_flag
    every: tuple[type[Config], ...] = (RouterConfig, *classes)
    configs = [
        cls.named("--{}".format, **{item.name: given[item.name] for item in settings_of(cls) if item.name in given})
        for cls in every
    ]
    assert isinstance(configs[0], RouterConfig)
    return configs[0], configs[1:]


_SCHEDULERS = ("scheduler", "shadow")


def _flags(classes: Sequence[type[Config]]) -> dict[str, Flag]:
    """Return the flags of RouterConfig and of `classes`, by name."""
    flags: dict[str, Flag] = {}
    all_classes: tuple[type[Config], ...] = (RouterConfig, *classes)
    for cls in all_classes:
        for item in settings_of(cls):
            assert item.name not in flags and (item.name in _SCHEDULERS or not item.is_part)
            flags[item.name] = Flag(item.name, cls, item)
    return flags


def _option_flags() -> dict[str, Flag]:
    """Return the flags of the schedulers' options, by name."""
    flags = {}
    for member in BaseGlobalSchedulerConfig.family.values():
        for item in _options_of(member):
            name = member.flag(item.name).lstrip("-")
            flags[name] = Flag(name, member, item)
    return flags


def _options_of(scheduler: type[PolyConfig]) -> list[Setting]:
    return [
        item for item in settings_of(scheduler) if scheduler is not PPOGlobalSchedulerConfig or item.name in _SERVED
    ]


def _parser(prog: str, description: str, flags: Mapping[str, Flag], options: Mapping[str, Flag]) -> FlagParser:
    parser = FlagParser(prog=prog, description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--config", metavar="FILE", help="YAML file with these settings; flags override it")
    groups: dict[str, Any] = {}
    for flag in (*flags.values(), *options.values()):
        title = flag.owner.help_title
        if flag.name in options:
            title = "options of schedulers"
        if title not in groups:
            groups[title] = parser.add_argument_group(title, flag.owner.help_description)
        if flag.name == "replicas":
            groups[title].add_argument(
                "--replica", dest="replicas", metavar="URL", nargs="+", action="extend", help=flag.item.help
            )
        elif flag.name in _SCHEDULERS:
            default = "ppo" if flag.name == "scheduler" else "none"
            names = ", ".join(BaseGlobalSchedulerConfig.family)
            groups[title].add_argument(
                f"--{flag.name}", metavar="NAME", help=f"{flag.item.help}: {names}, FILE.py:CLASS (default: {default})"
            )
        else:
            add_flag(groups[title], flag)
    return parser


def _read_replica(text: str) -> VllmReplicaConfig:
    """Read a URL, or `url=...,name=...`."""
    if "=" not in text.partition("://")[0]:
        return VllmReplicaConfig(text)
    items = next(item for item in settings_of(RouterConfig) if item.name == "replicas")
    (replica,) = read_flag(Flag("replica", RouterConfig, items), [text])
    assert isinstance(replica, VllmReplicaConfig)
    return replica


def _read_file(path: Path, flags: Mapping[str, Flag], options: Mapping[str, Flag]) -> dict[str, Any]:
    """Read the YAML file's settings, by flag; a scheduler is a mapping with its options. Raises InputError."""
    document = load_document(path, "--config ")
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise InputError(f"{path}: expected a mapping of settings")
    given: dict[str, Any] = {}
    for key, value in document.items():
        where = f"{path}: {key}"
        if key in _SCHEDULERS:
            if value is not None:
                given[key] = _read_scheduler(value, where)
            continue
        if key not in flags and key not in options:
            raise unknown_name(f"key in {path}:", str(key), [*flags, *options])
        if key == "replicas" and isinstance(value, list):
            value = [{"url": item} if isinstance(item, str) else item for item in value]
        given[key] = read_value((flags.get(key) or options[key]).item, value, where)
    return given


def _read_scheduler(value: Any, where: str) -> dict[str, Any]:
    """Read a scheduler's `type` and the options beside it."""
    named = {"type": value} if isinstance(value, str) else value
    if not isinstance(named, Mapping) or not isinstance(named.get("type"), str):
        raise InputError(f"{where}: expected the name of a scheduler, or a mapping with its `type`")
    family = BaseGlobalSchedulerConfig.from_type(named["type"], where)
    items = {item.name: item for item in _options_of(family)}
    read: dict[str, Any] = {"type": named["type"]}
    for key, option in named.items():
        if key == "type":
            continue
        if key not in items:
            raise unknown_name(f"option of {named['type']} in {where}:", str(key), items)
        read[key] = read_value(items[key], option, f"{where}.{key}")
    return read


def _make_scheduler(
    role: str,
    chosen: Mapping[str, Any],
    given: Mapping[str, Any],
    by_flag: Mapping[str, Any],
    options: Mapping[str, Flag],
) -> BaseGlobalSchedulerConfig:
    """Make the scheduler of a role. Options: by flag, else beside its name in the file, else elsewhere in the file."""
    name = chosen["type"]
    family = BaseGlobalSchedulerConfig.from_type(name, f"--{role}")
    own = {key: flag.item.name for key, flag in options.items() if flag.owner is family}
    values = {item: given[key] for key, item in own.items() if key in given}
    values |= {key: value for key, value in chosen.items() if key != "type"}
    values |= {item: by_flag[key] for key, item in own.items() if key in by_flag}
    if family is CustomGlobalSchedulerConfig and ":" in name:
        values["scheduler"] = name
    return family(**values)
