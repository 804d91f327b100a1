"""The operators' pages: thin views that call services and selectors."""
