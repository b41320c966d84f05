"""The real services in one process, on virtual time, under seeded faults.

Owns the fleet of the simulation, what goes wrong in it and what must hold nevertheless. One seed
gives one history: `make sim SEEDS=500` runs many, `python -m tests.sim --seed N --trace` tells one.

    model.py     what an undisturbed fleet answers, and a backend that computes it layer by layer
    scenario.py  one seed's fleet, requests and faults, as plain data
    fleet.py     processes: router, agents, engines, gateways
    clients.py   requests on a gateway's own driver, and what their clients saw
    faults.py    carries a scenario's faults out
    checks.py    what must hold while it runs and when all is quiet
    runner.py    one seed from beginning to end
"""
