"""What the compiler tells: a table in the terminal, `report.json`, and `report.html` with plots."""
