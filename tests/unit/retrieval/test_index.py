import json
from importlib import resources

from hypothesis import given
from hypothesis import strategies as st

from finetuneflow.retrieval.index import build_index
from finetuneflow.retrieval.prompt import rag_messages, rag_prompt
from finetuneflow.retrieval.terms import tokenize

CATALOGUE = {
    "8-SINP": "Système d'information sur la nature. Statut : en production. Acteurs : DEB ; MNHN.",
    "7zip": "Nom : 7zip\nFonction : Compression\nStatut : recommandé\nLicence : LGPL-2.0-only",
    "Géoportail": "Nom : Géoportail\nStatut : en production\nDomaine : cartographie\nActeurs : IGN",
    "ARPÈGE": "Nom : ARPÈGE\nStatut : en construction\nDomaine : météorologie\nActeurs : Météo-France",
    "Node.js": "Nom : Node.js\nFonction : exécution de JavaScript côté serveur\nStatut : recommandé",
    "C++ Builder": "Nom : C++ Builder\nFonction : environnement de développement\nStatut : déconseillé",
    "Cœur de parc": "Nom : Cœur de parc\nStatut : retirée\nDomaine : parcs\nSites : Vanoise ; Écrins",
}
QUESTIONS = {
    "Quel est le statut de l'application 8-SINP ?": "8-SINP",
    "Quelle est la licence de 7zip ?": "7zip",
    "Qui sont les acteurs du geoportail ?": "Géoportail",
    "Dans quel domaine travaille ARPEGE ?": "ARPÈGE",
    "A quoi sert node.js ?": "Node.js",
    "What is the status of C++ Builder?": "C++ Builder",
    "Sur quels sites trouve-t-on Coeur de parc ?": "Cœur de parc",
    "Quel est le statut d’ARPÈGE ?": "ARPÈGE",
}


def test_the_right_passage_comes_first_for_questions_like_the_samples() -> None:
    names = list(CATALOGUE)
    index = build_index([f"{name}\n{text}" for name, text in CATALOGUE.items()])
    found = index.search(list(QUESTIONS), 3)
    first = {question: names[hits[0]] for question, hits in zip(QUESTIONS, found, strict=True)}
    assert first == QUESTIONS


def test_every_record_of_the_shipped_sample_is_found_by_its_name() -> None:
    file = resources.files("finetuneflow.assets") / "sample" / "catalogue.json"
    records = next(iter(json.loads(file.read_text(encoding="utf-8")).values()))
    passages = ["\n".join(f"{field} : {value}" for field, value in record.items()) for record in records]
    questions = [f"Quels sont les acteurs de l'application {record['nom']} ?" for record in records]
    found = build_index(passages).search(questions, 3)
    first = sum(hits[:1] == [position] for position, hits in enumerate(found))
    assert len(records) >= 40
    assert first / len(records) >= 0.95
    assert all(position in hits for position, hits in enumerate(found))


def test_accents_case_elisions_and_possessives_are_forgiven() -> None:
    assert tokenize("L'Application d’été") == tokenize("application ete")
    assert tokenize("the application's sites") == tokenize("THE application sites")
    assert tokenize("Cœur") == tokenize("coeur")


def test_names_stay_whole_beside_their_parts() -> None:
    assert tokenize("8-SINP") == ["8-sinp", "8", "sinp"]
    assert tokenize("7zip, C++ et C#.") == ["7zip", "c++", "c", "et", "c#", "c"]
    assert "node.js" in tokenize("On utilise Node.js.")


def test_scripts_without_spaces_are_found_by_a_part_of_a_sentence() -> None:
    index = build_index(["東京は日本の首都です", "大阪は商業の都市です", "กรุงเทพเป็นเมืองหลวง"])
    assert index.search(["日本の首都", "商業", "เมืองหลวง"], 1) == [[0], [1], [2]]


def test_vowel_signs_are_not_taken_for_accents() -> None:
    assert tokenize("हिन्दी") != tokenize("हन्द")


def test_nothing_is_found_for_an_empty_or_unknown_query_or_in_an_empty_index() -> None:
    index = build_index(["alpha beta", "gamma"])
    assert index.search(["", "?!", "delta"], 5) == [[], [], []]
    assert build_index([]).search(["alpha"], 5) == [[]]
    assert build_index(["", "…"]).search(["alpha"], 5) == [[]]


def test_fewer_passages_than_asked_for_give_those_that_match() -> None:
    index = build_index(["alpha beta", "gamma", "alpha"])
    assert sorted(index.search(["alpha"], 10)[0]) == [0, 2]
    assert index.search(["alpha"], 0) == [[]]


def test_equal_scores_keep_the_order_of_the_passages() -> None:
    index = build_index(["other words here", *["same words here"] * 30])
    assert index.search(["same"], 5) == [[1, 2, 3, 4, 5]]


@given(st.lists(st.text(max_size=30), max_size=8), st.text(max_size=30), st.integers(0, 10))
def test_any_text_gives_distinct_positions_within_range(passages: list[str], query: str, k: int) -> None:
    [found] = build_index(passages).search([query], k)
    assert len(found) == len(set(found)) <= k
    assert all(0 <= position < len(passages) for position in found)


def test_the_prompts_are_exactly_those_of_the_training_exercises() -> None:
    assert rag_prompt("Quel statut ?", ["Un : 1", "Deux : {{ 2 }}"], "fr") == (
        "Réponds à la question à l'aide du contexte.\n\nContexte :\nUn : 1\n\nDeux : {{ 2 }}\n\n"
        "Question : Quel statut ?"
    )
    assert rag_prompt("What <b>?", ["One"], "en") == (
        "Answer the question from the context.\n\nContext:\nOne\n\nQuestion: What <b>?"
    )


def test_only_the_last_user_turn_carries_the_passages() -> None:
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    asked = rag_messages(messages, ["p"], "en")
    assert asked[:3] == messages[:3]
    assert asked[3]["content"].endswith("p\n\nQuestion: c")
    assert rag_messages(messages, [], "en") == messages
