"""Rebalancing as a plan: which guests to move, in which order, so that hosts share the work. Pure.

cluster     what is where, and what every host offers
layout      one arrangement of guests on hosts: its score, what each move would make of it, which moves are legal
descent     towards the best score: single moves, then exchanges
relief      no host over a limit, by as few moves as can be
order       a change of arrangement as steps, each of them legal when its turn comes
overtaking  which steps may start while others run or still wait
carrying    steps carried out on paper: hosts' limits, links that are shared
timetable   when each step runs: as soon as it may
reasons     why each step is there
survival    steps that leave N+k as it is
planner     the whole way, from a cluster to a plan
"""
