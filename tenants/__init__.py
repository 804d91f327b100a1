"""Who there is and what they may: users, the tenant tree, members, tokens, quotas, audit. Knows nothing of guests or HTTP."""
