"""Backtests: what the drift monitor would have said on rows of the past. It runs the production engine on a throwaway
hub whose clock is the data's.

times      pure: moments as files write them
columns    pure: which column is what, by the release's inputs
files      rows of CSV, Parquet and .npz files, merged by time, one at a time
windows    pure: rows to windows, as a device makes them
answers    pure: what an operator does with an alarm
replay     the throwaway hub: windows in, looks of the engine, an operator's answers to alarms
run        from files to an outcome
report     what came of it, for people and programs
cli        the command
"""
