"""The router's configuration: replicas, schedulers, guard rails; from flags and a YAML file."""

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

EXPLORATIONS = ("none", "epsilon", "sample")

# Of ppo's settings those that matter where nothing is trained.
_SERVED = ("checkpoint", "beta", "sample", "max_queue_requests")


@dataclass(frozen=True)
class RouterConfig(Config):
    """What decides, for which replicas, and within which guard rails."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "routing"
    help_description: ClassVar[str] = "what decides, for which replicas, within which guard rails"

    replicas: tuple[VllmReplicaConfig, ...] = setting(
        (), help="a vLLM server: its URL, or url=http://host:port,name=a,group=fast; give the flag once for each"
    )
    groups: tuple[HardwareGroupConfig, ...] = setting(
        (), help="hardware of like replicas: name=fast,prefill_seconds=6.6e-5,decode_seconds=0.0127,kv_tokens=475136"
    )
    scheduler: BaseGlobalSchedulerConfig = field(
        default_factory=PPOGlobalSchedulerConfig,
        metadata={"help": "who decides: any global scheduler of the simulator"},
    )
    shadow: BaseGlobalSchedulerConfig | None = field(
        default=None, metadata={"help": "a second scheduler: what it would have decided is recorded, nothing else"}
    )
    seed: int = setting(0, help="of all randomness in decisions", minimum=0, maximum=2**31)
    explore: str = setting(
        "none", choices=EXPLORATIONS,
        help="to learn from the decision log: epsilon: now and then a replica at random; sample: by the scores of ppo",
    )  # fmt: skip
    explore_fraction: float = setting(0.05, help="of epsilon: the part of requests", above=0, maximum=1)
    gauge_age_limit: float = setting(
        5.0, help="seconds; where a scheduler looks at gauges and one is older, least_tokens decides", above=0
    )
    decision_limit_ms: float = setting(
        5.0, help="milliseconds; a decision that takes longer is discarded, and least_tokens decides", above=0
    )
    feature_limit: float = setting(
        8.0, help="standard deviations from what ppo was trained on, beyond which least_tokens decides", above=0
    )
    tokenizer: str | None = setting(None, help="tokenizer.json that counts prompts; else estimated from characters")
    decision_log: str | None = setting(None, help="file to append a JSON line to for each request that ended")
    decision_log_bytes: int = setting(256 << 20, help="size at which the file is rotated", minimum=4096)
    decision_log_files: int = setting(8, help="rotated files that are kept", minimum=1, maximum=1000)
    simulation: str | None = setting(
        None, help="of lookahead: a configuration of the simulator whose cluster has these replicas, in their order"
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
                f"--explore sample needs a scheduler with probabilities, which {self.scheduler.get_type()} is not: "
                f"take --explore epsilon"
            )


def _check_scheduler(where: str, config: BaseGlobalSchedulerConfig, simulation: str | None) -> None:
    """Raise InputError for a scheduler that cannot be in front of real replicas."""
    if isinstance(config, LORGlobalSchedulerConfig) and config.count == "waiting":
        raise InputError(
            f"{where} lor: count waiting reads queues without delay, which no router can: take outstanding"
        )
    if isinstance(config, SizeSplitGlobalSchedulerConfig) and not config.thresholds:
        raise InputError(f"{where} size_split: give {config.flag('thresholds')}: the workload is not known here")
    if isinstance(config, PPOGlobalSchedulerConfig) and config.mode != "evaluate":
        raise InputError(f"{where} ppo: {config.flag('mode')} {config.mode} is of simulations: learn from the decision "
                         f"log (python -m rl.vllm.learn)")  # fmt: skip
    if config.get_type() == "lookahead" and simulation is None:
        raise InputError(f"{where} lookahead simulates the replicas: give --simulation FILE, which describes them")


def parse_router(
    prog: str,
    description: str,
    classes: Sequence[type[Config]] = (),
    argv: Sequence[str] | None = None,
) -> tuple[RouterConfig, list[Any]]:
    """The router's configuration and one of each of `classes`, from `argv` (of the process if None).

    A flag is `--field`; options of schedulers have the simulator's flags (`--ppo_global_scheduler_config_beta 40`).
    `--config FILE` names a YAML file: the same names as keys; `replicas` and `groups` are lists; `scheduler` and
    `shadow` are a name, or a mapping of `type` and options. Flags override the file. No two classes share a field.
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
            # The options that the file gives for a scheduler of the same name stay.
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
    """The plain flags by name: those of RouterConfig and of `classes`."""
    flags: dict[str, Flag] = {}
    every: tuple[type[Config], ...] = (RouterConfig, *classes)
    for cls in every:
        for item in settings_of(cls):
            assert item.name not in flags and (item.name in _SCHEDULERS or not item.is_part)
            flags[item.name] = Flag(item.name, cls, item)
    return flags


def _option_flags() -> dict[str, Flag]:
    """The flags of schedulers' own settings, by name."""
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
    """A URL, or `url=...,name=...`."""
    if "=" not in text.partition("://")[0]:
        return VllmReplicaConfig(text)
    items = next(item for item in settings_of(RouterConfig) if item.name == "replicas")
    (replica,) = read_flag(Flag("replica", RouterConfig, items), [text])
    assert isinstance(replica, VllmReplicaConfig)
    return replica


def _read_file(path: Path, flags: Mapping[str, Flag], options: Mapping[str, Flag]) -> dict[str, Any]:
    """What the YAML file gives, by flag; a scheduler as a mapping with its options. Raises InputError."""
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
    """`type` and the options that stand beside it, read and named."""
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
    """The scheduler in a role. Its options: by flag, else beside its name in the file, else by its type there."""
    name = chosen["type"]
    family = BaseGlobalSchedulerConfig.from_type(name, f"--{role}")
    own = {key: flag.item.name for key, flag in options.items() if flag.owner is family}
    values = {item: given[key] for key, item in own.items() if key in given}
    values |= {key: value for key, value in chosen.items() if key != "type"}
    values |= {item: by_flag[key] for key, item in own.items() if key in by_flag}
    if family is CustomGlobalSchedulerConfig and ":" in name:
        values["scheduler"] = name
    return family(**values)
