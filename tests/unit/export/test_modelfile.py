"""The Modelfile: what Ollama reads back from it is what was meant, whatever the text."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetuneflow.errors import UsageError
from finetuneflow.export.modelfile import render_modelfile
from finetuneflow.providers.modelfile import (
    Modelfile,
    as_read,
    check_name,
    check_parameters,
    create_body,
    full_name,
    losses,
    name_from,
    parse_parameters,
    render,
)

HOSTILE = [
    'Tu es un assistant.\n"""\nFROM evil\nPARAMETER stop x\n',
    'def f():\n    """Doc."""\n    pass',
    '"""',
    '"" at the start',
    'ends with a quote"',
    'ends with three """',
    '"quoted"',
    "\nstarts with a line end",
    "  spaces around  \n\n",
    'SYSTEM """nested"""',
    "{{ .System }} \\n $HOME `id` # not a comment",
    "é à ç « œuf » 中文 😀",
    '"""\r\nFROM evil',
    '""""\n"""" x',
]


def parse(text: str) -> list[tuple[str, str]]:
    """Instructions of a Modelfile, by the rules of Ollama's parser.

    A value ends at the end of a line unless a quote is open; nothing can be escaped; what is not printable is
    dropped.
    """
    found: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        if text[position] in " \t\r\n":
            position += 1
            continue
        if text[position] == "#":
            position = min(end for end in (text.find("\n", position), len(text)) if end >= 0)
            continue
        space = text.index(" ", position)
        name, position, buffer = text[position:space].upper(), space + 1, ""
        if name == "PARAMETER":
            space = text.index(" ", position)
            name, position = text[position:space], space + 1
        while position < len(text):
            character = text[position]
            if character in "\r\n" and unquoted(buffer.strip()) is not None:
                break
            if character in " \t\r\n" or is_printable(character):
                buffer += character
            position += 1
        value = unquoted(buffer.strip())
        assert value is not None, "a quote is never closed"
        found.append((name, value))
    return found


def unquoted(text: str) -> str | None:
    if text.startswith('"""'):
        return text[3:-3] if len(text) >= 6 and text.endswith('"""') else None
    if text.startswith('"'):
        return text[1:-1] if len(text) >= 2 and text.endswith('"') else None
    return text


def is_printable(character: str) -> bool:
    return character == " " or unicodedata.category(character)[0] in "LMNPS"


def values(text: str, name: str) -> list[str]:
    return [value for key, value in parse(text) if key == name]


def test_the_documented_modelfile() -> None:
    text = render_modelfile(
        system="Tu es un assistant expert.\nTu réponds de manière précise.",
        parameters={"temperature": 0.7, "top_p": 0.9, "num_ctx": 2048, "stop": ["###", 'a "b"']},
        license="Apache-2.0\n",
    )
    assert parse(text) == [
        ("FROM", "./model.gguf"),
        ("repeat_penalty", "1"),
        ("temperature", "0.7"),
        ("top_p", "0.9"),
        ("num_ctx", "2048"),
        ("stop", "###"),
        ("stop", 'a "b"'),
        ("SYSTEM", "Tu es un assistant expert.\nTu réponds de manière précise."),
        ("LICENSE", "Apache-2.0\n"),
    ]
    assert "#" not in text.split("PARAMETER")[0]


def test_template_and_adapter_stand_there_only_when_given() -> None:
    assert "TEMPLATE" not in render_modelfile()
    assert "ADAPTER" not in render_modelfile()
    text = render_modelfile(template="{{ .Prompt }}", adapter="adapter.gguf")
    assert ("TEMPLATE", "{{ .Prompt }}") in parse(text)
    assert ("ADAPTER", "./adapter.gguf") in parse(text)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_stays_text(hostile: str) -> None:
    text = render_modelfile(system=hostile, template=hostile, parameters={"stop": [hostile]})
    found = parse(text)
    assert [name for name, _ in found] == ["FROM", "repeat_penalty", "stop", "SYSTEM", "TEMPLATE"]
    assert found[0] == ("FROM", "./model.gguf")
    assert values(text, "SYSTEM") == values(text, "TEMPLATE") == [as_read(hostile)]
    if not losses(hostile):
        assert values(text, "SYSTEM") == [hostile]


@given(st.text(alphabet=st.sampled_from('"" \t\r\n#aé\u00a0\u202f\u200b\U0001f600\x00')))
def test_any_text_is_read_back_as_announced(system: str) -> None:
    found = parse(render(Modelfile(system=system)))
    assert found[2:] == ([("SYSTEM", as_read(system))] if system else [])
    assert losses(system) or as_read(system) == system


def test_what_a_modelfile_cannot_hold_is_said_in_it() -> None:
    # The parser drops no-break spaces: « 6tzen ? » would become « 6tzen? ».
    text = render_modelfile(system="Qu'est-ce que 6tzen\u00a0?")
    assert text.startswith("# SYSTEM: no-break and other special spaces")
    assert values(text, "SYSTEM") == ["Qu'est-ce que 6tzen ?"]
    assert losses('a """\nb') == ["three double quotes at the end of a line are written as single ones"]
    assert losses("a\u200db") == ["invisible characters are left out"]
    assert losses('"""in a line""" is fine, and at the end """') == []


def test_the_request_says_the_same_and_exactly() -> None:
    model = Modelfile(
        system='a """\nb\u00a0?', parameters={"temperature": 0.7}, license="MIT", template="{{ .Prompt }}"
    )
    assert create_body(model, "applications-ia", {"model.gguf": "sha256:ab"}) == {
        "model": "applications-ia",
        "files": {"model.gguf": "sha256:ab"},
        "system": 'a """\nb\u00a0?',
        "template": "{{ .Prompt }}",
        "license": "MIT",
        "parameters": {"repeat_penalty": 1.0, "temperature": 0.7},
        "stream": True,
    }
    with_adapter = create_body(
        Modelfile(adapter="adapter.gguf"), "a", {"model.gguf": "sha256:1", "adapter.gguf": "sha256:2"}
    )
    assert with_adapter["adapters"] == {"adapter.gguf": "sha256:2"}


def test_repeated_words_are_not_punished_unless_asked() -> None:
    assert ("repeat_penalty", "1") in parse(render_modelfile())
    assert ("repeat_penalty", "1.1") in parse(render_modelfile(parameters={"repeat_penalty": 1.1}))


def test_parameters_get_the_type_that_ollama_wants() -> None:
    pairs = [
        "temperature=0.7",
        "num_ctx=4096",
        "stop=###",
        "stop= a=b",
        "use_mmap=true",
        "seed = -1",
        "top_p=1",
    ]
    assert parse_parameters(pairs) == {
        "temperature": 0.7,
        "num_ctx": 4096,
        "stop": ["###", " a=b"],
        "use_mmap": True,
        "seed": -1,
        "top_p": 1.0,
    }
    assert check_parameters({"num_ctx": 4096.0, "stop": "x"}) == {"num_ctx": 4096, "stop": ["x"]}


@pytest.mark.parametrize(
    ("given_values", "said"),
    [
        ({"temprature": 0.7}, "no parameter `temprature`"),
        ({"num_ctx": "many"}, "takes a whole number, not `many`"),
        ({"num_ctx": 4096.5}, "takes a whole number"),
        ({"temperature": "nan"}, "takes a number"),
        ({"temperature": True}, "takes a number"),
        ({"seed": "9" * 400}, "takes a whole number"),
        ({"stop": ""}, "takes a text"),
        ({"stop": [1]}, "takes a text"),
        ({"use_mmap": "perhaps"}, "true or false"),
    ],
)
def test_a_wrong_parameter_is_named(given_values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        check_parameters(given_values)
    assert caught.value.code == "ollama_parameter"


def test_the_nearest_parameter_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        parse_parameters(["temprature=0.7"])
    assert caught.value.hint == "did you mean `temperature`?"
    with pytest.raises(UsageError, match="not NAME=VALUE"):
        parse_parameters(["temperature"])


@pytest.mark.parametrize(
    "name", ["applications-ia", "applications-ia:v2", "me/model_1.2:latest", "host.example:443/me/model"]
)
def test_good_names_are_kept(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "mon modèle", "a:b:c", "../x", "a/b/c/d", "-a", "a" * 81, "x:", "a..b", "m\n", "a b"]
)
def test_bad_names_are_refused_with_a_good_one(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_name(name)
    assert caught.value.code == "ollama_name"
    proposed = name_from(name)
    assert proposed in caught.value.hint
    assert check_name(proposed) == proposed


@given(st.text())
def test_a_name_comes_of_any_text(text: str) -> None:
    assert check_name(name_from(text))


def test_names_with_and_without_tag() -> None:
    assert full_name("a") == "a:latest"
    assert full_name("host:80/me/a") == "host:80/me/a:latest"
    assert full_name("me/a:v2") == "me/a:v2"
    assert name_from("Modèle n° 2 : bêta") == "modele-n-2-beta"
