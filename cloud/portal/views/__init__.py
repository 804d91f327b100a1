"""The tenants' pages: thin views that call services and selectors."""
