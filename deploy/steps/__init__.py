"""The steps of set-up, each idempotent: run again they change nothing, run after an interruption they mend."""
