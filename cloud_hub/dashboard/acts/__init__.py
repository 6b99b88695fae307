"""People's acts on the dashboard: each act is a form that says what it will do, confirmed, and sent once.

`forms` defines acts and their forms, `routes` serves them all alike (role, form of our own, page not out of date,
once), and one module per noun holds the acts. An act calls the use case that the API's route of the same order calls;
its refusals are shown on the form, with everything that was typed.
"""
