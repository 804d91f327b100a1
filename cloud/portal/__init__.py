"""The tenants' portal: server-rendered pages, each change by POST, live parts by htmx."""
