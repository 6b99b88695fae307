"""Reports the result, for people and for programs.

document   the document of `report.json`, and the report files
page       `report.html`, from that document alone
plots      its drawings
terminal   what the command prints
"""
