"""The operators' console: hosts, pools, operations, tenants; Django admin for raw records."""
