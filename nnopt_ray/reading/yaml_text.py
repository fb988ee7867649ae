"""YAML text → plain data with the place of every key and value, and back.

The scalars are those of the core schema of YAML 1.2 (chapter 10.3.2): `1e-3` is a number; `no`, `off` and
dates are words. What two readers of YAML would take differently, or what could only be meant to harm,
is refused: `010`, merge keys, tags, a key written twice, several documents, an alias bomb.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from nnopt_ray.reading.places import BROKEN, Places, Way, dotted, shown

MAX_BYTES = 2**20  # a page that a person can read is a thousand times smaller
MAX_DEPTH = 50
MAX_NODES = 50_000  # after aliases are written out

_TAG = "tag:yaml.org,2002:"
_OCTAL_OR_NOT = _TAG + "leading-zero"
_MERGE = _TAG + "merge"

# (tag, pattern, first characters): the core schema, and two forms that are recognised to be refused.
_SCALARS: tuple[tuple[str, str, list[str]], ...] = (
    (_TAG + "null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (_TAG + "bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    (_OCTAL_OR_NOT, r"[-+]?0[0-9]+", list("-+0")),
    (_TAG + "int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        _TAG + "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    (_MERGE, r"<<", ["<"]),
)


class _TooDeep(yaml.MarkedYAMLError):
    """Values are nested more deeply than any page needs."""


class _Loader(yaml.SafeLoader):
    """Composes nodes with the scalars above; constructs nothing."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own form); without YAML 1.1's words
    depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _TooDeep(problem="too deep", problem_mark=self.get_mark())
        try:
            node: Node | None = super().compose_node(parent, index)
        finally:
            self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes every word that this reader, or a reader of YAML 1.1, would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})\\Z"), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})\\Z"), _first)


def _fast_dumper() -> Any:
    """The dumper with libyaml's emitter, where PyYAML has it: the same text in 2.1 ms a page, not 8.3."""
    if not yaml.__with_libyaml__:
        return _Dumper
    emitter: Any = yaml.cyaml.CEmitter  # type: ignore[attr-defined]

    class Fast(emitter, _Dumper):  # type: ignore[misc]
        def __init__(self, stream: Any, **keys: Any) -> None:
            own = ("canonical", "indent", "width", "encoding", "allow_unicode", "line_break", "explicit_start",
                   "explicit_end", "version", "tags")  # fmt: skip
            emitter.__init__(self, stream, **{key: keys[key] for key in own if key in keys})
            yaml.resolver.Resolver.__init__(self)

    return Fast


# --- reading ------------------------------------------------------------------------------------


def decode(content: bytes, places: Places) -> str | None:
    """The text of a page, or None after noting why it is none."""
    if len(content) > MAX_BYTES:
        places.add((), "", f"the file is larger than {MAX_BYTES // 2**20} MB; a page is a short text. Is it the data?")
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        places.values[()] = (before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1)
        places.add((), "", f"this is not UTF-8 text (byte 0x{content[error.start]:02x}). Save the page as UTF-8.")
        return None


def read(text: str, places: Places) -> Any:
    """The plain data of a text of YAML, places noted; BROKEN after noting why it cannot be read."""
    strange = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if strange:  # PyYAML would say so too, but tells only an offset
        before = text[: strange.start()]
        places.values[()] = (before.count("\n") + 1, strange.start() - (before.rfind("\n") + 1) + 1)
        code = f"U+{ord(strange.group()):04X}"
        places.add((), "", f"the character {code} cannot stand in a page. Remove it, or write an escape in quotes.")
        return BROKEN
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark is not None:
            places.values[()] = (mark.line + 1, mark.column + 1)
        places.add((), "", _in_words(error))
        return BROKEN
    except (ValueError, OverflowError):  # PyYAML hands an escape such as "\\UFFFFFFFF" to chr() unchecked
        mark = loader.get_mark()
        places.values[()] = (mark.line + 1, mark.column + 1)
        places.add((), "", "a number in this line (an escape in quotes, or a YAML version) is out of range.")
        return BROKEN
    finally:
        loader.dispose()
    if root is None:
        return None
    builder = _Builder(places)
    built = builder.build(root, (), "")
    return BROKEN if builder.overflowed else built


def _in_words(error: yaml.MarkedYAMLError) -> str:
    """What is wrong with the YAML and how to mend it, from PyYAML's message."""
    problem, context = str(error.problem or ""), str(error.context or "")
    if isinstance(error, _TooDeep):
        return f"values are nested more than {MAX_DEPTH} deep; no page needs that."
    if "'\\t'" in problem:
        return "a tab cannot stand here; YAML is indented with spaces."
    if "another document" in problem or "single document" in context:
        return "a page is one YAML document; remove the line '---' and what follows, or make two pages."
    if "undefined alias" in problem:
        name = problem.removeprefix("found undefined alias ").strip()
        return f"the alias {name} has no anchor before it. Write &name where the value first stands."
    if "duplicate anchor" in context + problem:
        return "an anchor of this name was already given. Choose another name."
    if "mapping values are not allowed" in problem:
        return "a ':' cannot stand here. Indent the line as its neighbours, or put a text that holds ': ' in quotes."
    if "could not find expected ':'" in problem:
        return "this line is no 'key: value'. Add the ':' and a space after it, or indent it under its key."
    if "expected <block end>" in problem:
        return "the indentation does not fit: keys of one section begin in the same column."
    if "expected ',' or" in problem:
        return "a list or mapping in brackets is not closed before here. Add the missing ',' or bracket."
    if "found unexpected end of stream" in problem or "<stream end>" in problem:
        return "the page ends inside a text in quotes or in brackets. Add what closes it."
    if "cannot start any token" in problem:
        character = problem.removeprefix("found character ").removesuffix(" that cannot start any token")
        return f"no value can begin with {character}, which YAML keeps for itself. Put the text in quotes."
    return f"this is not YAML: {f'{context}: ' if context else ''}{problem}."


class _Builder:
    """Nodes → plain data. Every mapping and list is made anew, so aliases share nothing."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._left = MAX_NODES
        self._open: set[int] = set()  # nodes that are being built: an alias to one of them never ends

    @property
    def overflowed(self) -> bool:
        return self._left <= 0

    def build(self, node: Node, way: Way, path: str) -> Any:
        self._places.values[way] = (node.start_mark.line + 1, node.start_mark.column + 1)
        self._left -= 1
        if self._left == 0:
            self._places.add(way, "", f"with its aliases written out the page holds more than {MAX_NODES} values.")
        if self.overflowed:
            return BROKEN
        if id(node) in self._open:
            self._places.add(way, path, "an alias stands inside the value that it repeats.")
            return BROKEN
        if isinstance(node, ScalarNode):
            return self._scalar(node, way, path)
        if node.tag not in (_TAG + "map", _TAG + "seq"):
            return self._refuse_tag(node, way, path)
        self._open.add(id(node))
        try:
            if isinstance(node, SequenceNode):
                return [self.build(item, (*way, i), dotted(path, i)) for i, item in enumerate(node.value)]
            assert isinstance(node, MappingNode)
            return self._mapping(node, way, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: MappingNode, way: Way, path: str) -> Any:
        made: dict[str, Any] = {}
        merges = False
        for key_node, value_node in node.value:
            spot = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, ScalarNode) or not whole(key_node.value):
                self._places.keys.setdefault((*way, "?"), spot)
                self._places.add((*way, "?"), path, "a key must be a word, not a list or a mapping.", at_key=True)
                continue
            key = key_node.value
            if key_node.tag == _MERGE:
                self._places.keys[(*way, key)] = spot
                message = (
                    "merge keys (<<) are not part of YAML 1.2. Write the keys out, or repeat a whole value by *alias."
                )
                self._places.add((*way, key), path, message, at_key=True)
                del self._places.keys[(*way, key)]
                merges = True
                continue
            if key in made:
                first = self._places.keys[(*way, key)]
                self._places.keys[(*way, key)] = spot
                message = f"written twice; first in line {first[0]}, column {first[1]}. Remove one of the two."
                self._places.add((*way, key), dotted(path, key), message, at_key=True)
                self._places.keys[(*way, key)] = first
                continue
            self._places.keys[(*way, key)] = spot
            made[key] = self.build(value_node, (*way, key), dotted(path, key))
        return BROKEN if merges else made

    def _scalar(self, node: ScalarNode, way: Way, path: str) -> Any:
        text = node.value
        match node.tag.removeprefix(_TAG):
            case "str":
                if whole(text):
                    return text
                return self._fault(way, path, "the text holds half of a character (a lone surrogate).")
            case "null":
                return None
            case "bool" if text.lower() in ("true", "false"):
                return text.lower() == "true"
            case "int" if len(text) > 4000:  # Python refuses to read longer ones
                return self._fault(way, path, f"a number of {len(text)} digits.")
            case "int" | "float" as kind:
                number = _number(text, kind)
                if number is None:
                    return self._fault(way, path, f"!!{kind} cannot read {shown(text)}. Remove the tag.")
                if isinstance(number, float) and math.isinf(number) and "inf" not in text.lower():
                    return self._fault(way, path, f"{shown(text)} is too large: computers calculate up to 1.8e308.")
                return number
            case "leading-zero":
                value = text.lstrip("+-").lstrip("0") or "0"
                sign = "-" if text.startswith("-") else ""
                return self._fault(
                    way,
                    path,
                    f"{text} is octal to some readers and decimal to others. "
                    f"Write {sign}{value} for the number, or '{text}' in quotes for the word.",
                )
            case "merge":
                return text
        return self._refuse_tag(node, way, path)

    def _refuse_tag(self, node: Node, way: Way, path: str) -> Any:
        tag = node.tag.replace(_TAG, "!!")
        return self._fault(way, path, f"the tag {tag[:60]} is refused: a page is plain data. Remove the tag.")

    def _fault(self, way: Way, path: str, message: str) -> Any:
        self._places.add(way, path, message)
        return BROKEN


def _number(text: str, kind: str) -> int | float | None:
    try:
        if kind == "int":
            return int(text[2:], 8 if text[1] == "o" else 16) if text[:2] in ("0o", "0x") else int(text)
        special = text.lower().lstrip("+-")
        if special in (".inf", ".nan"):
            return float(text.lower().replace(".", "", 1))
        return float(text)
    except ValueError:
        return None


def whole(text: str) -> bool:
    """False for a text with a lone surrogate, which can be neither written nor printed."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


# --- writing ------------------------------------------------------------------------------------

FLOW = 92  # characters up to which a value stays in one line


def write(tree: Any) -> str:
    """YAML text of plain data. Top-level sections take a line a key, short values below them one line."""
    if not isinstance(tree, dict) or not tree:
        return _serialized(tree)
    return "".join(_section(str(key), value) for key, value in tree.items())


_known: dict[tuple[str, ...], str] = {}  # of the pages of a search most sections and lines are the same
KNOWN = 1024


def _section(name: str, value: Any) -> str:
    """One key of the top level. What stands in its lines hangs on nothing around them."""
    if not isinstance(value, dict) or not value:
        return _remembered((name, repr(value)), lambda: _serialized({name: value}))
    head = _remembered((name,), lambda: _serialized({name: {}}).removesuffix(" {}\n") + "\n")
    if head.count("\n") > 1:  # a name so long that its value stands in lines of its own
        return _serialized({name: value})

    def line(key: Any, item: Any) -> str:
        return _serialized({name: {key: item}}).removeprefix(head)

    return head + "".join(
        _remembered((name, str(key), repr(item)), lambda key=key, item=item: line(key, item))  # type: ignore[misc]
        for key, item in value.items()
    )


def _remembered(key: tuple[str, ...], make: Callable[[], str]) -> str:
    text = _known.get(key)
    if text is None:
        text = make()
        if len(_known) < KNOWN:
            _known[key] = text
    return text


def _serialized(tree: Any) -> str:
    text: str = yaml.serialize(_node(tree, 0), Dumper=_FAST, allow_unicode=True, width=110, encoding=None)
    return text


def _node(value: Any, depth: int) -> Node:
    if isinstance(value, dict):
        pairs = [(_node(str(key), depth + 1), _node(item, depth + 1)) for key, item in value.items()]
        return MappingNode(_TAG + "map", pairs, flow_style=depth > 1 and _length(value) <= FLOW)
    if isinstance(value, (list, tuple)):
        items = [_node(item, depth + 1) for item in value]
        return SequenceNode(_TAG + "seq", items, flow_style=_length(value) <= FLOW)
    node: Node = _REPRESENTER.represent_data(value)
    return node


def _length(value: Any) -> int:
    if isinstance(value, dict):
        return sum(len(str(key)) + 4 + _length(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return 2 + sum(2 + _length(item) for item in value)
    return len(str(value))


_REPRESENTER: Any = yaml.representer.SafeRepresenter()
_REPRESENTER.ignore_aliases = lambda _data: True
_FAST = _fast_dumper()
