"""The contents of pages, gathered from the rooms that know them and put into words."""
