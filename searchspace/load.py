"""A space from a TOML file, or a built-in one by its name, with every choice written out. A published design is a
built-in space of one network.

    name, version, task, data, d_model, description          d_model is a value or a list; data may be left to --data
    servable                                                 true restricts it as `searchspace.spec.servable` says
    [stem] [head]                                            one operator each, fixed
    position, final_norm                                     slots
    [[stages]]  num_blocks, depth, width_ratio, repeats, enter, leave
    [blocks]    mixer, ffn, norm, projection, placement, quant       for all blocks; [blocks.2] overrides block 2
    [blocks.quant]  ROLE = formats                           of q, k, v, o, up, down, ..., qkv, up_gate, maps, state
    [operators.NAME]  item = values                          narrows an operator's registered choices, in every slot
    [[constraints]]   quantity, lower, upper

A slot is a name, a list of names and tables ({op = "mlp", d_ff = [64, 128]}), or {candidates = [...], shared = true};
`shared` gives every block of a stage the same operator. An item that the file does not name takes its registered
values; an unnamed option is left out.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from searchspace import registry
from searchspace.cost import check_constraint
from searchspace.primitives.state_size import keeps_rows
from searchspace.registry import Nested
from searchspace.spec.arch import FOR_STATES_ALONE, PLACEMENTS, STATE_FORMATS, TASKS, Format, OpSpec, Scalar
from searchspace.spec.genome import STATE
from searchspace.spec.reading import real, section, shown, unknown, whole, word
from searchspace.spec.servable import servable
from searchspace.spec.space import (
    MAPS,
    BlockSpace,
    Candidate,
    Choice,
    Constraint,
    Domain,
    QuantSpace,
    Slot,
    SpaceSpec,
    StageSpace,
)

KEYS = {"name", "version", "task", "data", "description", "d_model", "stem", "head", "position", "final_norm"}
KEYS |= {"stages", "blocks", "operators", "constraints", "servable"}
STAGE_KEYS = {"num_blocks", "depth", "width_ratio", "repeats", "enter", "leave"}
ROLE_GROUPS = {
    "qkv": ("q", "k", "v"),
    "up_gate": ("up", "gate"),
    "maps": MAPS,
}
MOST_BLOCKS, MOST_CHANNELS = 1024, 1_000_000_000
DESIGNS = ("spaces", "designs")
BLOCK_KEYS = {"mixer", "ffn", "norm", "projection", "placement", "quant"}


def load_space(source: str) -> SpaceSpec:
    """Return the space named `source`, or read from the file `source`. Raises ValueError with the error's place."""
    path = Path(source)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise ValueError(f"no space file {source}")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"space {source} can't be read as text: {error}") from error
    elif source in (
        known := dict.fromkeys(builtin_spaces(), ("spaces",)) | dict.fromkeys(designs(), DESIGNS)
    ):
        text = files("searchspace").joinpath(*known[source], f"{source}.toml").read_text(encoding="utf-8")
    else:
        raise ValueError(f"{unknown(source, list(known), 'space')}, or a path to a TOML file")
    try:
        return resolve(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"space {source} is not TOML: {error}") from error
    except ValueError as error:
        raise ValueError(f"space {source}: {error}") from error


def builtin_spaces() -> list[str]:
    return _names("spaces")


def designs() -> list[str]:
    """Return the names of the published designs, which are spaces of one network each."""
    return _names(*DESIGNS)


def _names(*folder: str) -> list[str]:
    found = (entry.name for entry in files("searchspace").joinpath(*folder).iterdir())
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))


def resolve(data: Mapping[str, Any]) -> SpaceSpec:
    """Return the space that parsed TOML describes. Raises ValueError naming the key, the value and what is allowed."""
    _only("the space", data, KEYS)
    for key in ("name", "task", "d_model", "stem", "head", "stages", "blocks"):
        if key not in data:
            raise ValueError(f"lacks {key!r}")
    for key in ("name", "task", "data", "description"):
        word(key, data.get(key, ""))
    if data["task"] not in TASKS:
        raise ValueError(f"unknown task {data['task']!r}; known: {', '.join(TASKS)}")
    narrowed = _section("operators", data.get("operators", {}))
    _check_narrowed(narrowed)
    constraints = tuple(
        _constraint(f"constraints.{i}", c)
        for i, c in enumerate(_sections("constraints", data.get("constraints", [])))
    )
    space = SpaceSpec(
        name=data["name"],
        version=whole("version", data.get("version", 1)),
        task=data["task"],
        data=data.get("data", ""),
        description=data.get("description", ""),
        stem=_fixed("stem", data["stem"]),
        head=_fixed("head", data["head"]),
        d_model=_counts("d_model", data["d_model"], 1, MOST_CHANNELS),
        stages=_stages(data, narrowed),
        position=_slot("position", data.get("position", "none"), narrowed),
        final_norm=_slot("norm", data.get("final_norm", "none"), narrowed, "final_norm"),
        constraints=constraints,
    )
    _check_taken(narrowed, space)
    return servable(space) if _switch("servable", data.get("servable", False)) else space


def _stages(data: Mapping[str, Any], narrowed: Mapping[str, Any]) -> tuple[StageSpace, ...]:
    given = _section("blocks", data["blocks"])
    common = {k: v for k, v in given.items() if not k.isdecimal()}
    special = {int(k): _section(f"blocks.{k}", v) for k, v in given.items() if k.isdecimal()}
    stages, first = [], 0
    for index, stage in enumerate(_sections("stages", data["stages"])):
        where = f"stages.{index}"
        _only(where, stage, STAGE_KEYS)
        if "num_blocks" not in stage:
            raise ValueError(f"{where} lacks num_blocks, a whole number")
        whole(f"{where}.num_blocks", stage["num_blocks"], 1, MOST_BLOCKS)
        blocks = [{**common, **special.get(first + i, {})} for i in range(stage["num_blocks"])]
        first += stage["num_blocks"]
        stages.append(
            StageSpace(
                blocks=tuple(
                    _block(f"blocks.{first - len(blocks) + i}", b, narrowed) for i, b in enumerate(blocks)
                ),
                depth=_counts(
                    f"{where}.depth", stage.get("depth", stage["num_blocks"]), 0, stage["num_blocks"]
                ),
                width_ratio=_numbers(f"{where}.width_ratio", stage.get("width_ratio", 1)),
                repeats=_counts(f"{where}.repeats", stage.get("repeats", 1), 1, MOST_BLOCKS),
                enter=_slot("transition", stage.get("enter", "none"), narrowed, f"{where}.enter"),
                leave=_slot("transition", stage.get("leave", "none"), narrowed, f"{where}.leave"),
            )
        )
    beyond = [i for i in special if i >= first]
    if beyond:
        raise ValueError(f"[blocks.{beyond[0]}] is beyond the {first} blocks of the stages")
    return tuple(stages)


def _block(where: str, data: Mapping[str, Any], narrowed: Mapping[str, Any]) -> BlockSpace:
    _only(where, data, BLOCK_KEYS)
    placement = data.get("placement", "pre")
    shared = False
    if isinstance(placement, Mapping):
        _only(f"{where}.placement", placement, {"candidates", "shared"})
        shared = _switch(f"{where}.placement.shared", placement.get("shared", False))
        placement = placement.get("candidates", [])
    values = _choice(f"{where}.placement", placement)
    for value in values.values:
        if value not in PLACEMENTS:
            raise ValueError(f"{where}: unknown placement {value!r}; known: {', '.join(PLACEMENTS)}")
    block = BlockSpace(
        mixer=_slot("mixer", data.get("mixer", "none"), narrowed, f"{where}.mixer"),
        ffn=_slot("ffn", data.get("ffn", "none"), narrowed, f"{where}.ffn"),
        norm=_slot("norm", data.get("norm", "rmsnorm"), narrowed, f"{where}.norm"),
        projection=_slot("projection", data.get("projection", "dense"), narrowed, f"{where}.projection"),
        placement=values,
        placement_shared=shared,
    )
    formats = _section(f"{where}.quant", data.get("quant", {}))
    return replace(block, quant=_quant(f"{where}.quant", formats, block))


def _quant(where: str, data: Mapping[str, Any], block: BlockSpace) -> tuple[tuple[str, QuantSpace], ...]:
    """The format decisions, each with the operators that have the roles concerned."""
    if data and [c.op for c in block.projection.candidates] != ["dense"]:
        raise ValueError(f"{where}: formats are for dense projections, so projection must be dense alone")
    found: dict[str, QuantSpace] = {}
    taken: dict[str, str] = {}
    for name, names in sorted(data.items()):
        formats, roles = _choice(f"{where}.{name}", names), ROLE_GROUPS.get(name, (name,))
        for value in formats.values:
            _check_format(f"{where}.{name}", value, is_state=name == STATE)
        for role in roles:
            if role in taken:
                raise ValueError(f"{where}: role {role} is in both {taken[role]!r} and {name!r}")
            taken[role] = name
        mixers = _having("mixer", block.mixer, roles)
        ffns = () if name == STATE else _having("ffn", block.ffn, roles)
        if not mixers and not ffns:
            what = "keeps a state that can be stored in few bits" if name == STATE else f"has a role {name}"
            raise ValueError(f"{where}.{name}: no operator of the block {what}")
        found[name] = QuantSpace(roles, formats, mixers, ffns)
    return tuple(found.items())


def _check_format(where: str, name: Any, is_state: bool) -> None:
    if not is_state and name in FOR_STATES_ALONE:
        raise ValueError(f"{where}: {name} is a format of states, not of weights")
    if is_state and name not in STATE_FORMATS:
        raise ValueError(f"{where}: unknown format {name!r}; a state takes: {', '.join(STATE_FORMATS)}")
    try:
        Format.of(str(name))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _having(slot: str, candidates: Slot, roles: tuple[str, ...]) -> tuple[str, ...]:
    """The candidates with linear maps in one of the roles, or, for the state, with rows of tokens."""
    entries = [registry.operator(slot, c.op) for c in candidates.candidates]
    if roles == (STATE,):
        return tuple(e.name for e in entries if keeps_rows(e.state_bytes))
    return tuple(e.name for e in entries if not set(roles).isdisjoint(e.quantizable))


def _slot(slot: str, data: Any, narrowed: Mapping[str, Any], where: str = "") -> Slot:
    shared = False
    if isinstance(data, Mapping) and "candidates" in data:
        _only(where or slot, data, {"candidates", "shared"})
        shared = _switch(f"{where or slot}.shared", data.get("shared", False))
        data = data["candidates"]
    try:
        return Slot(tuple(_candidate(slot, c, narrowed) for c in _list(data)), shared)
    except ValueError as error:
        raise ValueError(f"{where or slot}: {error}") from None


def _candidate(slot: str, data: Any, narrowed: Mapping[str, Any]) -> Candidate:
    if not isinstance(data, str) and not (isinstance(data, Mapping) and isinstance(data.get("op"), str)):
        raise ValueError(f'{shown(data)}: give the name of an operator, or a table such as {{op = "mlp"}}')
    name, own = (
        (data, {}) if isinstance(data, str) else (data["op"], {k: v for k, v in data.items() if k != "op"})
    )
    entry = registry.operator(slot, name)
    _only(f"operator {name}", own, entry.items)
    values = {**narrowed.get(name, {}), **own}
    items = {
        item: _choice(f"{name}.{item}", values[item])
        if item in entry.lists and item in values  # words in one string, which the entry itself checks below
        else _domain(f"{name}.{item}", d, values.get(item), narrowed)
        for item, d in entry.choices.items()
    }
    unasked = {**entry.options, **{item: (value,) for item, value in entry.fixed.items()}}
    items |= {
        item: _alike(f"{name}.{item}", values[item], registered)
        for item, registered in unasked.items()
        if item in values
    }
    for item, domain in items.items():
        for value in domain.values if isinstance(domain, Choice) else ():
            reason = entry.why_not(item, value)
            if reason is not None:
                raise ValueError(reason)
    return Candidate(name, tuple(sorted(items.items())))


def _domain(where: str, registered: Any, given: Any, narrowed: Mapping[str, Any]) -> Domain:
    if isinstance(registered, Nested):
        return _slot(
            registered.slot, list(registered.candidates) if given is None else given, narrowed, where
        )
    return _choice(where, list(registered)) if given is None else _alike(where, given, registered)


def _fixed(slot: str, data: Any) -> OpSpec:
    """A slot with one candidate and one value per item, as a spec."""
    candidates = _slot(slot, data, {}).candidates
    if len(candidates) > 1:
        raise ValueError(f"{slot} is not searched: give one operator, got {len(candidates)}")
    candidate = candidates[0]
    items = {}
    for name, domain in candidate.items:
        if isinstance(domain, Slot) or len(domain.values) > 1:
            raise ValueError(f"{slot} {candidate.op} is not searched: give one value for {name}")
        items[name] = domain.values[0]
    return OpSpec.of(candidate.op, **items)


def _check_narrowed(narrowed: Mapping[str, Any]) -> None:
    names = {name for _, name in registry.operators()}
    for name, items in narrowed.items():
        if name not in names:
            raise ValueError(f"[operators.{name}]: {unknown(name, sorted(names), 'operator')}")
        _section(f"operators.{name}", items)
        for (_, known), entry in registry.operators().items():
            if known == name:
                _only(f"[operators.{name}]", items, entry.items)


def _check_taken(narrowed: Mapping[str, Any], space: SpaceSpec) -> None:
    """Raises ValueError for choices of an operator that no slot offers, which would have no effect."""
    slots = [space.position, space.final_norm]
    for stage in space.stages:
        slots += [stage.enter, stage.leave]
        slots += [s for b in set(stage.blocks) for s in (b.mixer, b.ffn, b.norm, b.projection)]
    offered = {name for slot in slots for name in _names_in(slot)}
    for name in narrowed:
        if name not in offered:
            raise ValueError(
                f"[operators.{name}]: no slot of the space offers {name}; name it in a slot, or leave the table out "
                f"(stem and head take their items in their own tables)"
            )


def _names_in(slot: Slot) -> Iterator[str]:
    """The operators that the slot offers, and those of the nested slots among their items."""
    for candidate in slot.candidates:
        yield candidate.op
        for _, domain in candidate.items:
            if isinstance(domain, Slot):
                yield from _names_in(domain)


def _constraint(where: str, data: Mapping[str, Any]) -> Constraint:
    _only(where, data, {"quantity", "lower", "upper"})
    if "quantity" not in data:
        raise ValueError(f"{where} lacks quantity")
    found = Constraint(word(f"{where}.quantity", data["quantity"]), data.get("lower"), data.get("upper"))
    check_constraint(found)
    return found


def _choice(where: str, data: Any) -> Choice:
    """Raises ValueError for a value that is not a scalar: a nested list, a table, a date."""
    for value in _list(data):
        if not isinstance(value, bool | int | float | str):
            raise ValueError(f"{where} {shown(value)}: give numbers or texts, each by itself")
        if isinstance(value, int | float) and not isinstance(value, bool):
            real(where, value)
    try:
        return Choice(tuple(_list(data)))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _counts(where: str, data: Any, least: int, most: int) -> Choice:
    for value in _list(data):
        whole(where, value, least, most)
    return _choice(where, data)


def _numbers(where: str, data: Any) -> Choice:
    for value in _list(data):
        real(where, value, above=0, most=MOST_CHANNELS)
    return _choice(where, data)


def _alike(where: str, data: Any, registered: Sequence[Scalar]) -> Choice:
    """Values of the registered type, and of the registered sign where it is always the same."""
    found = _choice(where, data)
    kinds = {type(value) for value in registered}
    numbers = [
        value for value in registered if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    for value in found.values:
        if type(value) in kinds - {int, float}:
            continue
        if numbers:
            least = min(numbers)
            if float in kinds:
                real(where, value, 0.0 if least >= 0 else -math.inf, above=0.0 if least > 0 else -math.inf)
            else:
                whole(where, value, min(1, int(least)) if least >= 0 else -MOST_CHANNELS, MOST_CHANNELS)
        else:
            known = ", ".join(str(v).lower() if isinstance(v, bool) else str(v) for v in registered)
            raise ValueError(f"{where} {shown(value)}: give one of the kind of {known}")
    return found


def _section(where: str, data: Any) -> Mapping[str, Any]:
    return section(where, {where: data})


def _sections(where: str, data: Any) -> list[Mapping[str, Any]]:
    if not isinstance(data, list):
        raise ValueError(f"{where} {shown(data)}: give tables, each under [[{where}]]")
    return [_section(f"{where}.{i}", item) for i, item in enumerate(data)]


def _switch(where: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"{where} {shown(value)}: give true or false")


def _list(data: Any) -> Sequence[Any]:
    return data if isinstance(data, list) else [data]


def _only(where: str, data: Mapping[str, Any], known: Set[str]) -> None:
    for name in sorted(set(data) - known):
        raise ValueError(f"{where} has {unknown(name, sorted(known))}")
