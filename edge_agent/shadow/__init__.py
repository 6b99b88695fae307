"""A release that is tried beside the one that serves: it answers copies of requests, and nobody sees its answers.

copies   which requests are copied: a bounded queue that never makes anybody wait
pace     how much of the processor it may take
process  the process that runs it, seen from the agent; child: the same from within
runner   what the hub ordered, and what became of it

The update machine knows nothing of it. What is fetched, verified and tried is not written into any model's state, so a
kill at any moment leaves what serves as it was; after a start the next look finds everything that is still good.
"""
