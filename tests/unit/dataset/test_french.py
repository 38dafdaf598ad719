import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetuneflow.dataset import english, french


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("GESTOR", "de GESTOR"),
        ("Ondivelle", "d'Ondivelle"),
        ("Éclusor", "d'Éclusor"),
        ("8-Navette", "de 8-Navette"),
        ("Yarn", "de Yarn"),
        ("Yvelines", "d'Yvelines"),
        ("HAProxy", "de HAProxy"),
        ("hébergement", "d'hébergement"),
        ("handicap", "de handicap"),
        ("onze", "de onze"),
        ("œuvre", "d'œuvre"),
        ("l'application GESTOR", "de l'application GESTOR"),
        ("le logiciel 7zip", "du logiciel 7zip"),
        ("les agents", "des agents"),
        ("la base", "de la base"),
        ("Le Havre", "du Havre"),
        ("La Rochelle", "de La Rochelle"),
        ("Les Ulis", "des Ulis"),
    ],
)
def test_de_is_elided_and_contracted(phrase: str, expected: str) -> None:
    assert french.of(phrase) == expected


@pytest.mark.parametrize(
    ("noun", "gender", "expected"),
    [
        ("application", "f", "l'application"),
        ("logiciel", "m", "le logiciel"),
        ("outil", "m", "l'outil"),
        ("plateforme", "f", "la plateforme"),
        ("hôpital", "m", "l'hôpital"),
        ("hangar", "m", "le hangar"),
        ("équipe", "f", "l'équipe"),
        ("yacht", "m", "le yacht"),
    ],
)
def test_the_article_follows_gender_and_first_letter(noun: str, gender: str, expected: str) -> None:
    assert french.definite(noun, gender) == expected


def test_a_is_contracted_with_the_article() -> None:
    assert french.to("le déploiement") == "au déploiement"
    assert french.to("les agents") == "aux agents"
    assert french.to("l'analyse") == "à l'analyse"
    assert french.to("la gestion") == "à la gestion"


def test_que_is_elided() -> None:
    assert french.that("Ondivelle") == "qu'Ondivelle"
    assert french.that("GESTOR") == "que GESTOR"
    assert french.that("l'application") == "que l'application"


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("application", "applications"),
        ("logiciel", "logiciels"),
        ("journal", "journaux"),
        ("réseau", "réseaux"),
        ("jeu", "jeux"),
        ("service numérique", "services numériques"),
        ("système d'information", "systèmes d'information"),
        ("base de données", "bases de données"),
        ("festival", "festivals"),
        ("accès", "accès"),
        ("travail", "travaux"),
    ],
)
def test_plural(noun: str, expected: str) -> None:
    assert french.plural(noun) == expected


@pytest.mark.parametrize(
    ("value", "gender", "expected"),
    [
        ("En production", "f", "en production"),
        ("recommandé", "f", "recommandée"),
        ("recommandé", "m", "recommandé"),
        ("Abandonnée", "m", "abandonné"),
        ("retiré du catalogue", "f", "retirée du catalogue"),
        ("opérationnel", "f", "opérationnelle"),
        ("obsolète", "f", "obsolète"),
        ("à l'étude", "f", "à l'étude"),
        ("hors service.", "m", "hors service"),
        ("Niveau 3", "f", None),
        ("R", "m", None),
        ("validé et publié", "f", None),
        ("", "f", None),
    ],
)
def test_a_state_agrees_or_is_refused(value: str, gender: str, expected: str | None) -> None:
    assert french.state(value, gender) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Permet de", "permet de"),
        ("PAO pour tous", "PAO pour tous"),
        ("GLPI", "GLPI"),
        ("Élabore", "élabore"),
        ("iPhone", "iPhone"),
        ("A", "a"),
    ],
)
def test_only_an_ordinary_word_loses_its_capital(text: str, expected: str) -> None:
    assert french.lower_first(text) == expected


def test_lists_are_joined_with_et() -> None:
    assert french.join(["Eau"]) == "Eau"
    assert french.join(["Eau", "Air"]) == "Eau et Air"
    assert french.join(["Eau", "Air", "Mer"]) == "Eau, Air et Mer"


def test_guillemets_are_spaced_and_never_nested() -> None:
    assert french.quoted("Eau.") == "« Eau »"
    assert french.quoted("le « grand » réseau") == '« le "grand" réseau »'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("il est en service", "Il est en service."),
        ("il est en service.", "Il est en service."),
        ("il est  en\nservice..", "Il est en service."),
        ("et ainsi de suite...", "Et ainsi de suite..."),
        ("vraiment ?", "Vraiment ?"),
        ("elle dit « oui »", "Elle dit « oui »."),
    ],
)
def test_a_sentence_has_one_capital_and_one_final_mark(text: str, expected: str) -> None:
    assert french.sentence(text) == expected


@given(st.text(max_size=60))
def test_a_sentence_never_has_a_double_space_or_a_double_full_stop(text: str) -> None:
    made = french.sentence(text)
    assert "  " not in made
    assert not re.search(r"(?<!\.)\.\.$", made)
    assert made[-1] in ".!?…"


@given(st.from_regex(r"[aeioéèêâîôAEIOÉÈ][bcdfgt]{1,8}", fullmatch=True))
def test_a_vowel_always_elides(word: str) -> None:
    assert french.of(word) == f"d'{word}"
    assert french.definite(word.lower(), "f").startswith("l'")


def test_english_articles_plurals_and_states() -> None:
    assert english.indefinite("application") == "an application"
    assert english.indefinite("unit of work") == "a unit of work"
    assert english.plural("library") == "libraries"
    assert english.plural("web service") == "web services"
    assert english.plural("software") == "software"
    assert english.state("In production") == "in production"
    assert english.state("Retired") == "retired"
    assert english.state("Level 3") is None
    assert english.quoted('the "big" one.') == "\"the 'big' one\""
