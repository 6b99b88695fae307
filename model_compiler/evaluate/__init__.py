"""Runs model files, and measures and judges their answers.

judging        runs artifacts and judges them: verdict, gate, calibrated deferral
measurements   latency, load time and memory, kept by content
verdict        what was measured, in numbers and plain words
deferral       calibrated confidence, and the threshold for asking the cloud
tasking        the task that a release names, and what is measured of it by default
task_metrics   metrics that a task gives their meaning
rightness      whether answers are right, sample by sample
"""
