"""The stages: from a config to codes, on whatever runner they are handed."""
