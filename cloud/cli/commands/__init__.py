"""The verbs, one file for each family of nouns."""
