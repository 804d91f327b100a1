"""The parts of the state machine test: what is done at random (rules), and the processes that do it (workers)."""
