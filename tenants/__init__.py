"""Who there is and what they may: users, tenants, members, tokens, quotas, audit. Knows nothing of guests or HTTP."""
