"""The torch half that stages share: models, tokens, adapters, answers."""
