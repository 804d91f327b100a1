"""The steps of `deploy/up`, each an ensure: it looks first, does what is missing, and may be cut off at any point."""
