"""The doors (API, portal, console, nodeapi, CLI) and the settings. Everything here may import compute and tenants."""
