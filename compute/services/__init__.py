"""Use cases: keyword-only functions, each one durable transaction: access, claim, work order, audit, all or nothing."""
