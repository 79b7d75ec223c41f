"""What a configuration may hold: as JSON schema for editors, and in words for messages.

The words are taken from the JSON schema, so that they cannot drift from what is checked. Knows nothing of files or of
values that were given.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from medunet.config.document import KeyPath
from medunet.config.schema import Config

Alternatives = tuple[dict[str, Any], ...]
"""JSON schemas without references, any of which may hold."""


_PLAIN = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "null": "null"}


def config_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a configuration file, `extends` included.

    A file that extends another may leave out what the other has; any other needs `name` and `labels`.
    """
    schema = Config.model_json_schema(by_alias=True, mode="validation")
    required = schema.pop("required")
    extends = {
        "title": "Extends",
        "type": "string",
        "description": "Another configuration that this one changes: a path seen from this file, or a shipped one.",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "medunet configuration",
        "properties": {"extends": extends, **schema["properties"]},
        "anyOf": [{"required": ["extends"]}, {"required": required}],
    }


@cache
def _root() -> dict[str, Any]:
    return Config.model_json_schema(by_alias=True, mode="validation")


def _flat(schema: dict[str, Any]) -> Alternatives:
    """Follow references and take unions apart."""
    if "$ref" in schema:
        return _flat(_root()["$defs"][schema["$ref"].rpartition("/")[2]])
    options = schema.get("anyOf") or schema.get("oneOf")
    if options is None:
        return (schema,)
    return tuple(flat for option in options for flat in _flat(option))


def alternatives_at(path: KeyPath, data: Any) -> Alternatives:
    """The schemas that may hold for the value at `path`; `data` decides between variants by their `name`."""
    found: Alternatives = _flat(_root())
    for part in path:
        found = tuple(flat for schema in _variants(found, data) for flat in _inside(schema, part))
        data = _child(data, part)
    return found


def _child(data: Any, part: str | int) -> Any:
    if isinstance(data, dict):
        return data.get(str(part))
    return data[part] if isinstance(data, list) and isinstance(part, int) and part < len(data) else None


def _variants(schemas: Alternatives, data: Any) -> Alternatives:
    """The mapping whose `name` is that of `data`, or the default where it has none; else all of `schemas`."""
    name = data.get("name") if isinstance(data, dict) else None
    if isinstance(data, dict) and "name" not in data:
        name = next((variant for schema in schemas if (variant := _default_variant(schema)) is not None), None)
    return tuple(schema for schema in schemas if name is not None and variant_name(schema) == name) or schemas


def _default_variant(schema: dict[str, Any]) -> str | None:
    """The name of a mapping that need not be named."""
    name: str | None = schema.get("properties", {}).get("name", {}).get("default")
    return name


def _inside(schema: dict[str, Any], part: str | int) -> Alternatives:
    if isinstance(part, int):
        fixed = schema.get("prefixItems", ())
        inner = fixed[part] if part < len(fixed) else schema.get("items")
    else:
        inner = schema.get("properties", {}).get(part) or schema.get("additionalProperties")
    return _flat(inner) if inner else ()


def variant_name(schema: dict[str, Any]) -> str | None:
    """`"sgd"` for the mapping that is chosen with `name: sgd`."""
    name = schema.get("properties", {}).get("name", {}).get("const")
    return None if name is None else str(name)


def keys_at(path: KeyPath, data: Any) -> list[str]:
    """The keys that the mapping at `path` may have; empty where it is no section."""
    here = data
    for part in path:
        here = _child(here, part)
    return list(dict.fromkeys(_keys(_variants(alternatives_at(path, data), here))))


def choices(alternatives: Alternatives) -> list[str]:
    """The words that are allowed, without null; empty if any word or none is."""
    return [str(word) for schema in alternatives for word in _words(schema) if isinstance(word, str)]


def _words(schema: dict[str, Any]) -> list[Any]:
    return [schema["const"]] if "const" in schema else list(schema.get("enum", ()))


@cache
def sections_with() -> dict[str, tuple[str, ...]]:
    """Every key with the sections (dotted) that have it; "" is the top level."""
    result: dict[str, list[str]] = {}

    def visit(schemas: Alternatives, path: str) -> None:
        for schema in schemas:
            for key, inner in schema.get("properties", {}).items():
                sections = result.setdefault(key, [])
                if path not in sections:
                    sections.append(path)
                visit(_flat(inner), f"{path}.{key}".lstrip("."))
            if "items" in schema:
                visit(_flat(schema["items"]), path)

    visit(_flat(_root()), "")
    return {key: tuple(sections) for key, sections in result.items()}


def in_words(alternatives: Alternatives) -> str:
    """What is allowed, to be read after "must be": "a whole number greater than 0, or null"."""
    named = [name for schema in alternatives if (name := variant_name(schema)) is not None]
    parts = [_describe(schema) for schema in alternatives if variant_name(schema) is None]
    if len(named) > 1:
        parts.insert(0, f"a mapping with name: {either(named)}")
    elif named:
        parts.insert(0, f"a mapping with the keys {', '.join(_keys(alternatives))}")
    return either(list(dict.fromkeys(parts)), comma=", ")


def _keys(alternatives: Alternatives) -> list[str]:
    return [key for schema in alternatives for key in schema.get("properties", {})]


def either(words: list[str], comma: str = " ") -> str:
    """`["a", "b", "c"]` to "a, b or c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])}{comma}or {words[-1]}"


def _describe(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if not schema:
        return "any value"
    if words := _words(schema):
        return either([str(word) for word in words])
    if kind == "array":
        return _describe_list(schema)
    if kind == "object":
        keys = _keys((schema,))
        return f"a mapping with the keys {', '.join(keys)}" if keys else "a mapping of names to values"
    if kind == "string":
        few = " that is not empty" if schema.get("minLength") else ""
        return f"text such as {either(schema['examples'])}" if "examples" in schema else f"text{few}"
    return f"{_PLAIN[str(kind)]}{_range(schema)}"


def _describe_list(schema: dict[str, Any]) -> str:
    fixed = schema.get("prefixItems", ())
    count = f"{len(fixed)} entries" if fixed else ""
    if not fixed and schema.get("minItems"):
        count = f"at least {schema['minItems']} {'entry' if schema['minItems'] == 1 else 'entries'}"
    inner = in_words(_flat(fixed[0] if fixed else schema["items"]))
    return f"a list of {count}, each {inner}" if count else f"a list, each entry {inner}"


def _range(schema: dict[str, Any]) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    bounds = [
        f"{words} {value if isinstance(value, int) else format(value, 'g')}"
        for words, value in (("greater than", above), ("of at least", low), ("of at most", high), ("less than", below))
        if value is not None
    ]
    return f" {' and '.join(bounds)}" if bounds else ""
