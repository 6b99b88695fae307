"""The agent's dealings with the machine that it runs on.

lock, owner      one agent per folder, of one user
sharing          what applications may read there
durable          files that survive power loss
clock            the time floor: the latest moment that is known to have passed
announcement     `run.json`: where the agent answers
child_process    the end and the limits of a process that the agent starts
memory           what is given back to the system after a swap
watchdog         ends an agent that stands still
notify, service  what the service manager is told, and its unit
"""
