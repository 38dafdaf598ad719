"""Which field of a record answers which type of question: guessed, written for people, read back, checked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from finetuneflow.dataset.assets import read_yaml
from finetuneflow.dataset.field_values import clean
from finetuneflow.dataset.french import fold
from finetuneflow.errors import InputError, RecipeError
from finetuneflow.schemas.dataset import FieldMapping
from finetuneflow.schemas.source import RecordSource

_LISTS = ("definition", "status", "domain", "actors", "sites")
_MOST_FIELDS = {"definition": 1, "status": 1, "domain": 2, "actors": 2, "sites": 1}
_FILLED = 0.9
_DISTINCT = 0.8
_MAX_NAME_CHARACTERS = 60
_COMMA_SHARE = 0.2


def guess_mapping(source: RecordSource) -> FieldMapping:
    """The likeliest mapping, from field names (French and English), fill rates and the shape of values.

    Raises InputError when no field can be the name.
    """
    language: Literal["fr", "en"] = "en" if source.language == "en" else "fr"
    shapes = {field: _Shape(source, field) for field in source.fields}
    free = [
        field for field in source.fields if shapes[field].filled and not _matches(field, _names()["ignored"])
    ]
    long_name = _best("long_name", free, shapes)
    name = _guess_name([field for field in free if field not in long_name[:1]], shapes, source)
    free = [field for field in free if field not in (name, *long_name[:1])]
    identifier = _best("id", free, shapes)[:1]
    free = [field for field in free if field not in identifier]
    lists: dict[str, list[str]] = {}
    for role in ("status", "definition", "domain", "actors", "sites"):
        lists[role] = _best(role, free, shapes)[: _MOST_FIELDS[role]]
        free = [field for field in free if field not in lists[role]]
    noun, gender = _guess_entity(name, source.fields, language)
    return FieldMapping(
        language=language,
        entity=noun,
        entity_gender="f" if gender == "f" else "m",
        id=identifier[0] if identifier else None,
        name=name,
        long_name=long_name[0] if long_name else None,
        value_labels=_guess_labels(lists["status"], shapes, language),
        separators=_guess_separators([*lists["domain"], *lists["actors"], *lists["sites"]], source),
        **lists,
    )


def load_mapping(path: Path) -> FieldMapping:
    """The mapping in a YAML file; a single field may stand where a list is expected.

    Raises InputError for a file that is not such YAML, RecipeError for an unknown key or a wrong value.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError("no such file", "check the path of the mapping", path=path) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        raise InputError("not a YAML file in UTF-8", _YAML_HINT, path=path, line=line) from error
    if not isinstance(content, dict):
        raise InputError("a mapping is a list of `key: field` lines", _YAML_HINT, path=path)
    _check_keys(content, path)
    values = {key: _as_list(value) if key in _LISTS else value for key, value in content.items()}
    try:
        return FieldMapping.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise RecipeError(f"{path}: `{key}`: {first['msg']}", _YAML_HINT) from error


_YAML_HINT = "write a fresh one with `finetuneflow dataset mapping RECORDS > mapping.yaml` and edit that"


def check_mapping(mapping: FieldMapping, source: RecordSource) -> None:
    """Raises InputError when the mapping names a field that the source lacks, with the nearest it has."""
    named: dict[str, list[str | None]] = {
        "id": [mapping.id],
        "name": [mapping.name],
        "long_name": [mapping.long_name],
    }
    named.update({role: list(getattr(mapping, role)) for role in _LISTS})
    named["value_labels"] = list(mapping.value_labels)
    for role, fields in named.items():
        for field in fields:
            if field is not None and field not in source.fields:
                near = nearest(field, source.fields)
                hint = f"did you mean `{near}`? " if near else ""
                listed = ", ".join(source.fields)
                raise InputError(
                    f"`{role}` of the mapping names the field `{field}`, which {source.name} does not have",
                    f"{hint}fields: {listed}",
                )


def mapping_yaml(mapping: FieldMapping, source: RecordSource | None = None) -> str:
    """The mapping as YAML with comments in its language; with `source`, unused fields are listed too."""
    comments: dict[str, str] = _names()["comments"][mapping.language]
    lines = [f"# {line}" for line in comments["header"].strip().splitlines()]
    values = mapping.model_dump()
    for key in FieldMapping.model_fields:
        comment = comments.get(key)
        lines += ["", f"# {comment}"] if comment else [""]
        lines.append(f"{key}: {_flow(values[key])}")
    used = {
        mapping.id,
        mapping.name,
        mapping.long_name,
        *(field for role in _LISTS for field in values[role]),
    }
    unused = [field for field in source.fields if field not in used] if source else []
    if unused:
        lines += ["", f"# {comments['unused']}: {', '.join(unused)}"]
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    text = yaml.safe_dump([value], allow_unicode=True, default_flow_style=True, sort_keys=False, width=10_000)
    return text.strip()[1:-1]


def nearest(name: str, names: Sequence[str]) -> str | None:
    """The one of `names` that is spelled most like `name`, case and accents aside; None when none is near."""
    folded = {fold(other): other for other in names}
    found = difflib.get_close_matches(fold(name), list(folded), n=1, cutoff=0.5)
    return folded[found[0]] if found else None


class _Shape:
    """What the values of a field look like: share filled, share distinct, mean length."""

    def __init__(self, source: RecordSource, field: str) -> None:
        raw = [record.fields.get(field, "") for record in source.records]
        texts = [clean(value) if isinstance(value, str) else ", ".join(map(clean, value)) for value in raw]
        self.values = [text for text in texts if text]
        self.filled = len(self.values) / len(source.records) if source.records else 0.0
        self.distinct = len(set(self.values)) / len(self.values) if self.values else 0.0
        self.characters = sum(map(len, self.values)) / len(self.values) if self.values else 0.0
        self.numeric = bool(self.values) and all(re.fullmatch(r"[\d .,/:-]+", text) for text in self.values)
        self.is_link = bool(self.values) and sum(
            "://" in text or "@" in text for text in self.values
        ) * 2 > len(self.values)


@lru_cache(maxsize=1)
def _names() -> dict[str, Any]:
    content: dict[str, Any] = read_yaml("questions/field_names.yaml")
    return content


def _stem(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-zà-ÿ])(?=[A-ZÀ-Þ])", " ", name)
    return [word[:-1] if len(word) > 3 and word.endswith("s") else word for word in fold(spaced).split()]


def _matches(field: str, synonyms: Sequence[str]) -> float:
    """How well a field's name matches, 0 to 1.

    It equals a synonym, or holds all its words (worth less); the earlier the synonym, the better.
    """
    words = _stem(field)
    best = 0.0
    for place, synonym in enumerate(synonyms):
        wanted = _stem(synonym)
        worth = 1.0 - place / (4 * len(synonyms))
        if words == wanted:
            best = max(best, worth)
        elif set(wanted) <= set(words) and len(words) <= len(wanted) + 3:
            best = max(best, worth * 0.6)
    return best


def _best(role: str, fields: Sequence[str], shapes: Mapping[str, _Shape]) -> list[str]:
    """The fields that can play a role, best first."""
    scored = []
    for field in fields:
        match = _matches(field, _names()["roles"][role])
        if match and _fits(role, shapes[field]):
            scored.append((match + 0.1 * shapes[field].filled, field))
    return [field for _, field in sorted(scored, key=lambda pair: -pair[0])]


def _fits(role: str, shape: _Shape) -> bool:
    if role == "id":
        return shape.filled >= _FILLED and shape.distinct >= 1.0
    if role == "status":
        return shape.characters <= _MAX_NAME_CHARACTERS and len(set(shape.values)) <= max(
            12, len(shape.values) // 4
        )
    if role in ("domain", "actors", "sites"):
        return not shape.numeric and not shape.is_link
    return not shape.is_link


def _guess_name(fields: Sequence[str], shapes: Mapping[str, _Shape], source: RecordSource) -> str:
    able = [
        field
        for field in fields
        if shapes[field].filled >= _FILLED
        and shapes[field].distinct >= _DISTINCT
        and shapes[field].characters <= _MAX_NAME_CHARACTERS
        and not shapes[field].is_link
    ]
    named = _best("name", able, shapes)
    if named:
        return named[0]
    plain = [
        field for field in able if not shapes[field].numeric and not _matches(field, _names()["roles"]["id"])
    ]
    if not plain:
        raise InputError(
            "no field can be the records' name: none is filled and different in nearly all records",
            f"write a mapping with `name: <field>`; fields: {', '.join(source.fields)}",
            path=source.name,
        )
    return max(plain, key=lambda field: (shapes[field].distinct, -shapes[field].characters))


def _guess_entity(name: str, fields: Sequence[str], language: str) -> tuple[str, str]:
    entities = _names()["entities"][language]
    words = _stem(name)
    for noun, entity in entities["names"].items():
        if _stem(noun)[0] in words:
            return entity[0], entity[1]
    folded = {fold(field) for field in fields}
    for hint in entities["fields"]:
        if len(folded & {fold(field) for field in hint["fields"]}) >= 2:
            return hint["noun"][0], hint["noun"][1]
    return entities["default"][0], entities["default"][1]


def _guess_labels(
    fields: Sequence[str], shapes: Mapping[str, _Shape], language: str
) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for field in fields:
        for codes in _names()["status_codes"]:
            if shapes[field].values and set(shapes[field].values) <= set(codes[language]):
                found[field] = dict(codes[language])
    return found


def _guess_separators(fields: Sequence[str], source: RecordSource) -> str:
    """Semicolon and bar; the comma only where it is common: it is also part of ordinary values."""
    raw = [record.fields.get(field) for record in source.records for field in fields]
    cells = [value for value in raw if isinstance(value, str)]
    commas = sum("," in text for text in cells)
    return ";,|" if cells and commas >= _COMMA_SHARE * len(cells) else ";|"


def _check_keys(content: Mapping[Any, Any], path: Path) -> None:
    known = list(FieldMapping.model_fields)
    for key in content:
        if key not in known:
            near = nearest(str(key), known)
            hint = f"did you mean `{near}`? " if near else ""
            raise RecipeError(
                f"{path}: unknown key `{key}` in the mapping", f"{hint}keys: {', '.join(known)}"
            )
    if not content.get("name"):
        raise RecipeError(f"{path}: the mapping has no `name`", "add `name: <field that holds the name>`")


def _as_list(value: Any) -> Any:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value
