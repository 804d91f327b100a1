"""Use cases: every change of tenancy, each one transaction (a savepoint in a bigger one) with its audit event.

Lock order: tenant row, then its members' or tokens' rows, then quota rows from leaf to root, by resource.
"""
