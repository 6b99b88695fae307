"""The dashboard: pages about the fleet that the server renders.

`pages/` has a module of thin routes for every page, `views/` gathers what a page shows, `acts/` is what
people do, `templates/` has a template of the same name. `rendering` puts them into the frame, `places` are the pages'
addresses.
"""
