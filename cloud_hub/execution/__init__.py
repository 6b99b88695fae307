"""Users' code (recipes, label checks) in a process of its own.

port        `Executor`: a folder and an entry point in, a result or a named bad end out
child       a process for each piece of work, under limits; child_main and messages: its other end
cluster     the same on a Ray cluster: on_ray in a child connects to it, node runs there; shipping: their files
here        in the caller's process, for a person at a terminal and for tests
log         what work prints, bounded
processes   a process with all that it has started
"""
