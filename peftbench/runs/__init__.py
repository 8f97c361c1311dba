"""Runs: settings become an identity, an identity becomes one result that is found again."""
