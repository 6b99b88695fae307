"""Model files run in a child process: a data set goes in; answers, costs or a refusal come out.

runner           asks the child
runner_process   is the child; it alone loads runtimes
exchange         arrays between the two, as files
"""
