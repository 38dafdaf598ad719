"""Arms on one frozen test set, compared in pairs, with a verdict."""
