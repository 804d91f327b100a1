"""The node workers' door: calls, answers, heartbeat, network. Below it no host sees the database, nor another host."""
